"""What is counted for whom, and what a refusal says."""

from datetime import UTC, datetime

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from edif.core.errors import OverLimit
from edif.core.ids import GroupName, UserName
from edif.core.job import JobState, states_before
from edif.core.people import People
from edif.core.quota import Measure, Quota, Scope, day_of
from edif.core.users import Group, Role, User
from edif.gateway.admission import Admission
from tests.sizes import SIZES

ADA, BOB, EVE = (UserName(name) for name in ("ada", "bob", "eve"))
LAB = GroupName("lab")
NOW = datetime(2026, 11, 22, 19, 30, tzinfo=UTC).timestamp()
TODAY = day_of(NOW)
MIB = 2**20


def admission(*quotas: Quota, contact: str = "") -> Admission:
    made = Admission(contact)
    members = [User(name, Role.RESEARCHER, 0.0, group=LAB) for name in (ADA, BOB)]
    made.people = People.of([*members, User(EVE, Role.RESEARCHER, 0.0)], [Group(LAB, 0.0)], quotas)
    return made


def refusal(made: Admission, user: UserName, now: float = NOW) -> str:
    with pytest.raises(OverLimit) as refused:
        made.check(user, now)
    return refused.value.detail


def test_without_quotas_everyone_may() -> None:
    made = admission()
    for _ in range(1000):
        made.ledger.enters(ADA, JobState.QUEUED)
    made.check(ADA, NOW)
    assert made.held_back(ADA, NOW) is None


def test_a_full_queue_is_refused_until_a_job_leaves_it() -> None:
    made = admission(Quota(Scope.EACH_USER, "", Measure.QUEUED_JOBS, 2), contact="hpc@example.org")
    for _ in range(2):
        made.check(ADA, NOW)
        made.ledger.enters(ADA, JobState.QUEUED)
    assert refusal(made, ADA) == (
        "Your quota, 2 jobs in the queue, is used up (2 now). It frees when a job of yours begins, ends or is "
        "cancelled. If you need more, ask hpc@example.org. [quota_used_up]"
    )
    made.check(BOB, NOW)
    made.ledger.moves(ADA, JobState.QUEUED, JobState.RUNNING)
    made.check(ADA, NOW)


def test_seconds_of_a_day_are_back_at_midnight_and_hold_waiting_jobs_until_then() -> None:
    made = admission(Quota(Scope.USER, ADA, Measure.SECONDS_PER_DAY, 3600))
    made.ledger.spends(ADA, LAB, TODAY, seconds=3612.5, result_bytes=0)
    assert refusal(made, ADA) == (
        "Your quota, 3,600 seconds of computing a day, is used up (3,612.5 now). It frees at 2026-11-23 00:00 UTC. "
        "If you need more, ask your operator, who sets it with `edif quota set`. [quota_used_up]"
    )
    assert made.held_back(ADA, NOW) is not None
    midnight = datetime(2026, 11, 23, tzinfo=UTC).timestamp()
    made.check(ADA, midnight)
    assert made.held_back(ADA, midnight) is None


def test_a_month_is_the_sum_of_its_days_and_of_no_other() -> None:
    made = admission(Quota(Scope.USER, ADA, Measure.RESULT_BYTES_PER_MONTH, 100 * MIB))
    november, december = (datetime(2026, month, 1, tzinfo=UTC).timestamp() for month in (11, 12))
    made.ledger.spends(ADA, None, day_of(november) - 1, seconds=0, result_bytes=500 * MIB)
    made.ledger.spends(ADA, None, day_of(november), seconds=0, result_bytes=60 * MIB)
    made.check(ADA, NOW)
    made.ledger.spends(ADA, None, TODAY, seconds=0, result_bytes=40 * MIB)
    assert "100 MiB of results a month, is used up (100 MiB now). It frees at 2026-12-01" in refusal(
        made, ADA
    )
    made.check(ADA, december)


def test_a_groups_quota_binds_all_its_members_together() -> None:
    made = admission(Quota(Scope.GROUP, LAB, Measure.STORED_BYTES, 10 * MIB))
    made.ledger.stores(ADA, 6 * MIB)
    made.check(BOB, NOW)
    made.ledger.stores(BOB, 4 * MIB)
    told = refusal(made, ADA)
    assert told.startswith(
        "The quota of your group lab, 10 MiB of stored payloads and results, is used up (10 MiB now). It frees when results"
    )
    made.check(EVE, NOW)
    made.ledger.stores(BOB, -4 * MIB)
    made.check(ADA, NOW)


def test_what_was_spent_in_a_group_stays_there_and_jobs_go_along() -> None:
    made = admission(Quota(Scope.GROUP, LAB, Measure.SECONDS_PER_DAY, 60))
    made.ledger.spends(ADA, LAB, TODAY, seconds=60, result_bytes=0)
    made.ledger.enters(ADA, JobState.QUEUED)
    made.people = People.of([User(ADA, Role.RESEARCHER, 0.0), *list(made.people.users.values())[1:]])
    assert made.ledger.group_uses(LAB, NOW)[Measure.SECONDS_PER_DAY] == 60
    assert made.ledger.group_uses(LAB, NOW)[Measure.QUEUED_JOBS] == 0


def test_jobs_that_run_are_no_reason_to_refuse_one() -> None:
    made = admission(Quota(Scope.EACH_USER, "", Measure.RUNNING_JOBS, 1))
    made.ledger.enters(ADA, JobState.RUNNING)
    made.check(ADA, NOW)
    assert made.held_back(ADA, NOW) is None


class Life:
    """Any number of jobs that go through their states in any legal order."""

    def __init__(self) -> None:
        self.made = admission()
        self.states: list[JobState] = []

    def step(self, which: int, after: JobState) -> None:
        if which >= len(self.states):
            self.states.append(JobState.QUEUED)
            self.made.ledger.enters(ADA, JobState.QUEUED)
        elif self.states[which] in states_before(after):
            self.made.ledger.moves(ADA, self.states[which], after)
            self.states[which] = after


@settings(max_examples=SIZES.examples, derandomize=SIZES.derandomize)
@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from(JobState)), max_size=60))
def test_the_count_is_that_of_the_jobs(steps: list[tuple[int, JobState]]) -> None:
    life = Life()
    for which, after in steps:
        life.step(which, after)
    used = life.made.ledger.user_uses(ADA, NOW)
    assert used[Measure.QUEUED_JOBS] == life.states.count(JobState.QUEUED)
    assert used[Measure.RUNNING_JOBS] == life.states.count(JobState.RUNNING)
