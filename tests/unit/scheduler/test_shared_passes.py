"""Fair shares where many jobs of a model run in one forward pass: they end together, and each is charged its part of it."""

import pytest
from hypothesis import given, settings

from edif.scheduler.shares import Shares
from tests.sizes import SIZES
from tests.unit.scheduler.service import Service
from tests.unit.scheduler.test_shares import flood, served, services, two, without_corrections

SLOTS = 16


@given(services(slots=SLOTS, pass_s=1.0))
@settings(max_examples=SIZES.examples)
def test_nobody_gets_less_than_the_share_less_the_bound(service: Service) -> None:
    service.play().check_shares()


def a_flood_and_large_jobs(*, learns: bool) -> Service:
    """One user's jobs are a sixteenth of a pass each, the other's a quarter; both have some that wait, nearly to the end."""
    people = flood("flood", 320, 1.0), flood("large", 80, 4.0)
    return two(*people, slots=SLOTS, pass_s=16.0, learns=learns).play()


@pytest.mark.parametrize("learns", [True, False])
def test_a_flood_in_every_pass_gets_as_many_seconds_as_few_large_jobs(learns: bool) -> None:
    service = a_flood_and_large_jobs(learns=learns)
    service.check_shares()
    both = sum({"flood", "large"} <= set(each.runs) for each in service.log)
    assert both > 350
    # What was expected is corrected when jobs end: at most what runs at one time can be wrong.
    assert served(service, "flood", both) == pytest.approx(
        served(service, "large", both), abs=SLOTS * 4.0 / 2
    )


def test_shares_in_passes_hang_on_the_correction_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shares, "_end", without_corrections)
    with pytest.raises(AssertionError, match="got too little"):
        a_flood_and_large_jobs(learns=False).check_shares()


def late_to_a_flood(at: float, *bursts: tuple[float, int]) -> list[float]:
    """When the five jobs of someone begin who sends them at that time; a pass takes a second."""
    late = flood("late", 5, 1 / SLOTS, bursts=((at, 5),))
    service = two(flood("flood", 0, 1 / SLOTS, bursts=bursts), late, slots=SLOTS, pass_s=1.0).play()
    service.check_shares()
    return [each.at for each in service.log if each.user == "late"]


def test_who_comes_to_a_flood_is_in_the_next_pass() -> None:
    assert late_to_a_flood(10.5, (0.0, 1), (5.0, 600)) == [11.0] * 5


def test_who_comes_before_any_cost_is_known_waits_for_what_all_slots_were_expected_to_cost() -> None:
    """The first jobs of a model are expected to cost a second each. Sixteen that cost a sixteenth put whoever comes next
    fifteen seconds back, once: the price of many slots that decision 10 names.
    """
    began = late_to_a_flood(1.5, (0.0, 600))
    assert max(began) <= SLOTS * 1.0
