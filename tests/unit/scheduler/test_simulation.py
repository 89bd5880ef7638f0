"""The simulator of ``bench/shares.py`` at a small size: what fairness buys, and that it costs nothing in sum."""

import pytest
from bench.shares import Arm, Demand, Outcome, Site, demand, fairness

from tests.sizes import SIZES

SITE = Site(
    users=SIZES.simulated_jobs // 50, groups=10, replicas=20, jobs=SIZES.simulated_jobs, flooders=4, seed=7
)


@pytest.fixture(scope="module")
def sends() -> Demand:
    return demand(SITE)


@pytest.fixture(scope="module")
def arms(sends: Demand) -> tuple[Outcome, Outcome]:
    return Arm(SITE, sends, fair=True).play(), Arm(SITE, sends, fair=False).play()


def test_users_get_what_they_are_due_and_in_order_of_arrival_they_do_not(
    sends: Demand, arms: tuple[Outcome, Outcome]
) -> None:
    fair, by_arrival = (fairness(SITE, sends, outcome) for outcome in arms)
    assert fair > 0.95
    assert by_arrival < 0.8


def test_light_users_hardly_notice_a_flood(arms: tuple[Outcome, Outcome]) -> None:
    fair, by_arrival = (sorted(outcome.waits_light) for outcome in arms)
    middle, late = len(fair) // 2, len(fair) * 99 // 100
    assert fair[middle] < by_arrival[middle] / 10
    assert fair[late] < by_arrival[late] / 2


def test_no_replica_idles_while_a_job_waits_and_every_job_ends(arms: tuple[Outcome, Outcome]) -> None:
    for outcome in arms:
        assert outcome.idle_while_waiting == 0
        assert outcome.ended == SITE.jobs
        assert len(outcome.waits_light) + len(outcome.waits_heavy) == SITE.jobs
    fair, by_arrival = arms
    assert fair.end == pytest.approx(by_arrival.end, rel=0.05)
