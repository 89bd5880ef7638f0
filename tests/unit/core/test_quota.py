"""Days, months and what is used up."""

from datetime import UTC, datetime

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from edif.core.quota import HELD, SPENT, Measure, Quota, Scope, day_of, first_used_up, frees_at, month_begins
from tests.sizes import SIZES

moments = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))
NOW = datetime(2026, 11, 22, 19, 30, tzinfo=UTC).timestamp()


@settings(max_examples=SIZES.examples, derandomize=SIZES.derandomize)
@given(moments)
def test_a_day_ends_at_midnight_and_a_month_on_its_last_day(moment: datetime) -> None:
    now = moment.timestamp()
    day_over, month_over = frees_at(Measure.SECONDS_PER_DAY, now), frees_at(Measure.SECONDS_PER_MONTH, now)
    assert day_over is not None
    assert month_over is not None
    assert now < day_over <= month_over
    assert day_of(day_over) == day_of(now) + 1
    assert month_begins(now) <= day_of(now) < day_of(month_over)
    assert month_begins(month_over) == day_of(month_over)
    assert month_begins(month_over - 1) == month_begins(now)


@pytest.mark.parametrize("measure", [*HELD, Measure.RUNNING_JOBS])
def test_what_jobs_give_back_has_no_hour(measure: Measure) -> None:
    assert frees_at(measure, NOW) is None


def quotas(**amounts: float) -> dict[Measure, Quota]:
    return {
        Measure(name): Quota(Scope.USER, "ada", Measure(name), amount) for name, amount in amounts.items()
    }


def test_without_a_quota_nothing_is_used_up() -> None:
    assert first_used_up({}, dict.fromkeys(Measure, 1e30), (*SPENT, *HELD), NOW) is None


def test_a_quota_is_used_up_when_all_of_it_is_used_and_not_before() -> None:
    limits = quotas(seconds_per_day=60)
    assert first_used_up(limits, {Measure.SECONDS_PER_DAY: 59.9}, SPENT, NOW) is None
    found = first_used_up(limits, {Measure.SECONDS_PER_DAY: 60}, SPENT, NOW)
    assert found is not None
    assert (found.quota.amount, found.used) == (60, 60)
    assert found.frees_at == datetime(2026, 11, 23, tzinfo=UTC).timestamp()


def test_a_quota_of_nothing_leaves_no_room() -> None:
    assert first_used_up(quotas(queued_jobs=0), {}, HELD, NOW) is not None


def test_only_what_is_asked_about_counts() -> None:
    limits = quotas(seconds_per_day=1, queued_jobs=1)
    used = {Measure.SECONDS_PER_DAY: 5.0}
    assert first_used_up(limits, used, HELD, NOW) is None
