"""The contract of the record store: what every implementation must do."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as with_settings

from edif.core import errors
from edif.core.errors import AuthRefused
from edif.core.ids import JobId, UserName
from edif.core.job import FINAL_STATES, AttemptOutcome, Ending, Job, JobState, states_before
from edif.core.users import ApiKey, Role, User
from edif.records.store import RecordStore
from tests.sizes import SIZES
from tests.unit.records.factories import ADA, BOB, StoreFactory, a_job, an_attempt, an_ending

Opened = Callable[[], Awaitable[RecordStore]]
COMPLETED = {"now": 50.0, "attempt": 1, "outcome": AttemptOutcome.COMPLETED}
CANCELLED_BEFORE = {"now": 50.0, "attempt": None, "outcome": None}


async def running(store: RecordStore, **changes: Any) -> Job:
    job = a_job(**changes)
    await store.add_job(job)
    assert await store.begin_attempt(an_attempt(job.id))
    return job


async def state(store: RecordStore, job_id: JobId) -> JobState:
    job = await store.job(job_id)
    assert job is not None
    return job.state


# -- add_job, job, jobs, unfinished_jobs ---------------------------------------------------------------
async def test_job_is_read_as_it_was_added(store: RecordStore) -> None:
    job = a_job(env={"peft": "org/lora", "n": [1, None, 2.5]}, client_key="k", compress=False)
    assert await store.add_job(job) == job
    assert await store.job(job.id) == job


async def test_unknown_job_is_none(store: RecordStore) -> None:
    assert await store.job(JobId("jx")) is None


async def test_same_client_key_of_one_owner_is_one_job(store: RecordStore) -> None:
    first, second = a_job(client_key="k"), a_job(client_key="k")
    await store.add_job(first)
    assert await store.add_job(second) == first
    assert await store.job(second.id) is None


async def test_same_client_key_answers_with_the_job_as_it_is_now(store: RecordStore) -> None:
    job = await running(store, client_key="k")
    await store.end_job(job.id, an_ending(), **COMPLETED)
    again = await store.add_job(a_job(client_key="k"))
    assert (again.id, again.state) == (job.id, JobState.COMPLETED)


async def test_same_client_key_of_another_owner_is_another_job(store: RecordStore) -> None:
    mine, others = a_job(client_key="k"), a_job(client_key="k", owner=BOB)
    await store.add_job(mine)
    assert await store.add_job(others) == others
    assert (await store.add_job(a_job(client_key="k"))).id == mine.id
    assert (await store.add_job(a_job(client_key="k", owner=BOB))).id == others.id


async def test_jobs_without_client_key_are_never_the_same(store: RecordStore) -> None:
    for _ in range(3):
        await store.add_job(a_job())
    assert len(await store.jobs()) == 3


# -- who sent it ---------------------------------------------------------------------------------------
def a_user(name: UserName = ADA) -> User:
    return User(name, Role.RESEARCHER, 1.0)


async def test_job_of_a_user_is_recorded_while_there_is_that_user(store: RecordStore) -> None:
    ada, job = a_user(), a_job()
    await store.add_user(ada)
    assert await store.add_job(job, sender=ada.id) == job
    assert await store.job(job.id) == job
    assert await store.add_job(job, sender=ada.id) == job
    assert [record.entry.action for record in await store.audit()].count("job.accepted") == 1


@pytest.mark.parametrize("how", ["removed", "erased", "replaced"])
async def test_job_of_a_user_who_has_gone_is_refused_and_nowhere_on_record(
    store: RecordStore, how: str
) -> None:
    ada, job = a_user(), a_job()
    await store.add_user(ada)
    if how == "erased":
        await store.erase_user(ADA, UserName("erased-1"))
    else:
        await store.remove_user(ADA, now=2.0)
    if how == "replaced":
        await store.add_user(a_user())  # somebody else of that name
    acts = len(await store.audit())
    with pytest.raises(AuthRefused) as refused:
        await store.add_job(job, sender=ada.id)
    assert refused.value.kind is errors.KEY_REVOKED
    assert await store.jobs() == []
    assert len(await store.audit()) == acts


async def test_job_that_was_recorded_is_answered_again_though_its_user_has_gone(store: RecordStore) -> None:
    """Its answer was lost, and meanwhile the user was removed."""
    ada, job = a_user(), a_job()
    await store.add_user(ada)
    await store.add_job(job, sender=ada.id)
    await store.remove_user(ADA, now=2.0)
    assert await store.add_job(job, sender=ada.id) == job


async def test_uploads_that_meet_an_erasure_leave_no_job_under_the_erased_name(opened: Opened) -> None:
    gateway, command_line = await opened(), await opened()
    ada, pseudonym = a_user(), UserName("erased-1")
    await gateway.add_user(ada)

    async def send() -> bool:
        try:
            await gateway.add_job(a_job(), sender=ada.id)
        except AuthRefused:
            return False
        return True

    async def erase() -> None:
        await command_line.erase_user(ADA, pseudonym)

    first = [await send() for _ in range(3)]
    *rest, _ = await asyncio.gather(*(send() for _ in range(40)), erase())
    assert await gateway.jobs(owner=ADA) == []
    assert len(await gateway.jobs(owner=pseudonym)) == sum(first) + sum(rest)
    assert not await send()


async def test_jobs_are_listed_newest_first_by_owner_state_and_number(store: RecordStore) -> None:
    jobs = [a_job(created_at=float(n), owner=BOB if n == 2 else ADA) for n in (1, 4, 2, 3)]
    for job in jobs:
        await store.add_job(job)
    await store.begin_attempt(an_attempt(jobs[0].id))

    async def listed(**which: Any) -> list[float]:
        return [job.created_at for job in await store.jobs(**which)]

    assert await listed() == [4, 3, 2, 1]
    assert await listed(limit=2) == [4, 3]
    assert await listed(owner=ADA) == [4, 3, 1]
    assert await listed(states=[JobState.RUNNING]) == [1]
    assert await listed(states=[JobState.RUNNING, JobState.QUEUED]) == [4, 3, 2, 1]
    assert await listed(owner=BOB, states=[JobState.RUNNING]) == []


async def test_unfinished_jobs_are_all_that_have_not_ended_oldest_first(store: RecordStore) -> None:
    waiting, run, done, cancelled = [a_job(created_at=float(n)) for n in (4, 1, 2, 3)]
    for job in (waiting, run, done, cancelled):
        await store.add_job(job)
    for job in (run, done):
        await store.begin_attempt(an_attempt(job.id))
    await store.end_job(done.id, an_ending(), **COMPLETED)
    await store.end_job(cancelled.id, an_ending(JobState.CANCELLED), **CANCELLED_BEFORE)
    assert [job.id for job in await store.unfinished_jobs()] == [run.id, waiting.id]


async def test_a_cancel_is_remembered_until_the_job_ends(store: RecordStore) -> None:
    waiting, run, done = a_job(), a_job(), a_job()
    for job in (waiting, run, done):
        await store.add_job(job)
    for job in (run, done):
        await store.begin_attempt(an_attempt(job.id))
    await store.end_job(done.id, an_ending(), **COMPLETED)
    assert await store.ask_cancel(waiting.id)
    assert await store.ask_cancel(run.id)
    assert await store.ask_cancel(run.id), "twice is no error"
    assert not await store.ask_cancel(done.id)
    assert not await store.ask_cancel(JobId("never"))
    asked = {job.id: job.cancel_asked for job in await store.jobs()}
    assert asked == {waiting.id: True, run.id: True, done.id: False}
    assert await store.lose_attempt(run.id, 1)
    found = await store.job(run.id)
    assert found is not None
    assert (found.state, found.cancel_asked) == (JobState.QUEUED, True)


@pytest.mark.parametrize("number", [0, 3, 1300])
async def test_without_blobs_are_jobs_that_were_never_recorded_or_lost_them(
    store: RecordStore, number: int
) -> None:
    job, deleted = a_job(), a_job()
    for each in (job, deleted):
        await store.add_job(each)
    await store.mark_blobs_deleted([deleted])
    never = {JobId(f"never-{n}") for n in range(number)}
    assert await store.without_blobs({job.id, deleted.id, *never}) == {deleted.id, *never}


async def test_unfinished_jobs_have_no_upper_number(store: RecordStore) -> None:
    """A restart that forgot the 101st job would lose it."""
    await asyncio.gather(*(store.add_job(a_job()) for _ in range(130)))
    assert len(await store.unfinished_jobs()) == 130


@with_settings(
    max_examples=max(SIZES.examples // 6, 10), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_text_and_any_json_survive(
    factory: StoreFactory, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=30)
    json = st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
        max_leaves=5,
    )
    values = st.dictionaries(text, json, max_size=3)
    job = a_job(env=data.draw(values), client_key=data.draw(text), model_key=data.draw(text))
    ending = Ending(JobState.FAILED, data.draw(text), "user_code", data.draw(values))

    async def there_and_back() -> Job | None:
        store = await factory.open(tmp_path_factory.mktemp("any"))
        try:
            await store.add_job(job)
            await store.end_job(job.id, ending, now=1.5, attempt=None, outcome=None)
            found: Job | None = await store.job(job.id)
            return found
        finally:
            await store.close()

    assert asyncio.run(there_and_back()) == replace(
        job,
        state=JobState.FAILED,
        ended_at=1.5,
        error_code="user_code",
        description=ending.description,
        meta=ending.meta,
    )


# -- attempts ------------------------------------------------------------------------------------------
async def test_begun_attempt_is_the_current_one_and_its_job_runs(store: RecordStore) -> None:
    job = a_job()
    await store.add_job(job)
    attempt = an_attempt(job.id)
    assert await store.current_attempt(job.id) is None
    assert await store.begin_attempt(attempt)
    assert await store.current_attempt(job.id) == attempt
    assert await store.job(job.id) == replace(job, state=JobState.RUNNING, attempts=1)


@pytest.mark.parametrize("end", sorted(FINAL_STATES))
async def test_ended_job_does_not_begin(store: RecordStore, end: JobState) -> None:
    job = await running(store)
    assert await store.end_job(job.id, an_ending(end), **CANCELLED_BEFORE)
    assert not await store.begin_attempt(an_attempt(job.id, 2))
    assert [attempt.number for attempt in await store.attempts(job.id)] == [1]
    assert await state(store, job.id) is end


async def test_running_job_does_not_begin_again(store: RecordStore) -> None:
    job = await running(store)
    assert not await store.begin_attempt(an_attempt(job.id, 2))
    assert [attempt.number for attempt in await store.attempts(job.id)] == [1]


async def test_unknown_job_does_not_begin(store: RecordStore) -> None:
    assert not await store.begin_attempt(an_attempt(JobId("jx")))


async def test_lost_attempt_lets_its_job_wait_again_and_keeps_its_count(store: RecordStore) -> None:
    job = await running(store)
    assert await store.lose_attempt(job.id, 1)
    assert await store.job(job.id) == replace(job, state=JobState.QUEUED, attempts=1)
    assert await store.current_attempt(job.id) is None
    assert await store.begin_attempt(an_attempt(job.id, 2))
    outcomes = [(attempt.number, attempt.outcome) for attempt in await store.attempts(job.id)]
    assert outcomes == [(1, AttemptOutcome.LOST), (2, None)]


@pytest.mark.parametrize("number", [0, 1, 3])
async def test_attempt_that_is_not_current_cannot_be_lost(store: RecordStore, number: int) -> None:
    job = await running(store)
    await store.lose_attempt(job.id, 1)
    await store.begin_attempt(an_attempt(job.id, 2))
    assert not await store.lose_attempt(job.id, number)
    assert await state(store, job.id) is JobState.RUNNING


async def test_attempts_of_one_job_are_not_those_of_another(store: RecordStore) -> None:
    one, two = await running(store), await running(store)
    assert await store.lose_attempt(one.id, 1)
    assert await state(store, two.id) is JobState.RUNNING
    assert await store.current_attempt(two.id) is not None


# -- end_job -------------------------------------------------------------------------------------------
async def test_ending_is_recorded_whole(store: RecordStore) -> None:
    job = await running(store)
    ending = Ending(JobState.COMPLETED, "Done.", None, {"run_s": 1.5, "tokens": 7}, 123, "ab" * 32, 456)
    assert await store.end_job(job.id, ending, **COMPLETED)
    assert await store.job(job.id) == replace(
        job,
        state=JobState.COMPLETED,
        attempts=1,
        ended_at=50.0,
        description="Done.",
        meta={"run_s": 1.5, "tokens": 7},
        result_bytes=123,
        result_sha256="ab" * 32,
        kept_bytes=456,
    )
    assert [attempt.outcome for attempt in await store.attempts(job.id)] == [AttemptOutcome.COMPLETED]
    assert await store.current_attempt(job.id) is None


async def test_job_ends_once(store: RecordStore) -> None:
    job = await running(store)
    assert await store.end_job(job.id, an_ending(JobState.FAILED, description="first"), **COMPLETED)
    before = await store.job(job.id)
    assert not await store.end_job(job.id, an_ending(description="second"), **COMPLETED)
    assert not await store.end_job(job.id, an_ending(JobState.CANCELLED), **CANCELLED_BEFORE)
    assert not await store.lose_attempt(job.id, 1)
    assert await store.job(job.id) == before


async def test_old_attempt_cannot_end_its_job(store: RecordStore) -> None:
    job = await running(store)
    await store.lose_attempt(job.id, 1)
    assert not await store.end_job(job.id, an_ending(), **COMPLETED), "while the job waits again"
    await store.begin_attempt(an_attempt(job.id, 2))
    assert not await store.end_job(job.id, an_ending(), **COMPLETED), "while another attempt runs"
    assert await state(store, job.id) is JobState.RUNNING
    outcomes = [attempt.outcome for attempt in await store.attempts(job.id)]
    assert outcomes == [AttemptOutcome.LOST, None]


async def test_attempt_that_never_began_cannot_end_its_job(store: RecordStore) -> None:
    job = a_job()
    await store.add_job(job)
    assert not await store.end_job(job.id, an_ending(), **COMPLETED)
    assert await store.job(job.id) == job


async def test_unknown_job_does_not_end(store: RecordStore) -> None:
    assert not await store.end_job(JobId("jx"), an_ending(JobState.FAILED), **CANCELLED_BEFORE)


@pytest.mark.parametrize("end", sorted(FINAL_STATES))
async def test_a_job_that_waits_ends_as_the_law_has_it(store: RecordStore, end: JobState) -> None:
    job = a_job()
    await store.add_job(job)
    legal = JobState.QUEUED in states_before(end)
    assert await store.end_job(job.id, an_ending(end), **CANCELLED_BEFORE) is legal
    assert await state(store, job.id) is (end if legal else JobState.QUEUED)


async def test_last_lost_attempt_ends_its_job(store: RecordStore) -> None:
    job = await running(store)
    ended = await store.end_job(
        job.id, an_ending(JobState.FAILED), now=1.0, attempt=1, outcome=AttemptOutcome.LOST
    )
    assert ended
    assert [attempt.outcome for attempt in await store.attempts(job.id)] == [AttemptOutcome.LOST]


async def test_job_that_ends_without_its_attempt_leaves_none_open(store: RecordStore) -> None:
    """While an attempt has no outcome it is its job's current one: an ended job has none."""
    job = await running(store)
    assert await store.end_job(job.id, an_ending(JobState.CANCELLED), **CANCELLED_BEFORE)
    assert await store.current_attempt(job.id) is None
    assert not await store.lose_attempt(job.id, 1)
    assert await state(store, job.id) is JobState.CANCELLED


@pytest.mark.parametrize("not_an_end", [JobState.QUEUED, JobState.RUNNING])
async def test_state_that_is_no_end_is_a_fault_of_the_caller(
    store: RecordStore, not_an_end: JobState
) -> None:
    job = await running(store)
    with pytest.raises(ValueError, match="does not end"):
        await store.end_job(job.id, an_ending(not_an_end), **COMPLETED)
    assert await state(store, job.id) is JobState.RUNNING


@pytest.mark.parametrize(("attempt", "outcome"), [(1, None), (None, AttemptOutcome.LOST)])
async def test_attempt_and_outcome_come_together(
    store: RecordStore, attempt: int | None, outcome: AttemptOutcome | None
) -> None:
    job = await running(store)
    with pytest.raises(ValueError, match="outcome"):
        await store.end_job(job.id, an_ending(), now=1.0, attempt=attempt, outcome=outcome)


# -- asked again, because the answer was not heard ------------------------------------------------------
async def test_job_that_is_added_again_is_the_same_job(store: RecordStore) -> None:
    for job in (a_job(), a_job(client_key="k")):
        assert await store.add_job(job) == job
        assert await store.add_job(job) == job
    assert len(await store.jobs()) == 2


async def test_beginning_that_is_asked_again_is_answered_as_before(store: RecordStore) -> None:
    job = a_job()
    await store.add_job(job)
    attempt = an_attempt(job.id)
    assert await store.begin_attempt(attempt)
    assert await store.begin_attempt(attempt)
    assert await store.attempts(job.id) == [attempt]
    assert not await store.begin_attempt(replace(attempt, replica="r2")), "another one, of the same number"
    await store.lose_attempt(job.id, 1)
    await store.begin_attempt(an_attempt(job.id, 2))
    assert not await store.begin_attempt(attempt), "it is not the current one any more"


async def test_loss_that_is_asked_again_is_answered_as_before(store: RecordStore) -> None:
    job = await running(store)
    assert await store.lose_attempt(job.id, 1)
    assert await store.lose_attempt(job.id, 1)
    assert await store.job(job.id) == replace(job, state=JobState.QUEUED, attempts=1)
    await store.begin_attempt(an_attempt(job.id, 2))
    assert not await store.lose_attempt(job.id, 1)
    assert await state(store, job.id) is JobState.RUNNING


@pytest.mark.parametrize("by", [1, None])
async def test_ending_that_is_asked_again_is_answered_as_before(store: RecordStore, by: int | None) -> None:
    job = await running(store)
    ending = Ending(JobState.FAILED, "Not\0good.", "user_code", {"run_s": 1.5})
    how: dict[str, Any] = {"attempt": by, "outcome": None if by is None else AttemptOutcome.FAILED}
    assert await store.end_job(job.id, ending, now=50.0, **how)
    assert await store.end_job(job.id, ending, now=50.0, **how)
    assert not await store.end_job(job.id, ending, now=51.0, **how), "another ending, by its time"
    assert not await store.end_job(job.id, replace(ending, meta={}), now=50.0, **how)
    found = await store.job(job.id)
    assert found is not None
    assert (found.ended_at, found.meta) == (50.0, {"run_s": 1.5})
    expected = AttemptOutcome.LOST if by is None else AttemptOutcome.FAILED
    assert [attempt.outcome for attempt in await store.attempts(job.id)] == [expected]


async def test_users_and_keys_that_are_written_again_are_answered_as_before(store: RecordStore) -> None:
    ada = User(ADA, Role.OPERATOR, 1.5, "ada@example.org")
    assert await store.add_user(ada)
    assert await store.add_user(ada)
    await store.add_key(a_key(1))
    await store.add_key(a_key(1))
    assert await store.revoke_key("id1", 5.0)
    assert await store.revoke_key("id1", 5.0)
    assert await store.keys() == [a_key(1, revoked_at=5.0)]


# -- exactly once under concurrency --------------------------------------------------------------------
async def _race(*tries: Awaitable[bool]) -> int:
    """How many of the tries won."""
    return sum(await asyncio.gather(*tries))


async def test_one_of_many_endings_wins(opened: Opened) -> None:
    stores = [await opened(), await opened()]
    for _ in range(SIZES.races):
        job = await running(stores[0])
        endings = [
            an_ending(state, description=f"{n}") for n in range(SIZES.racers) for state in FINAL_STATES
        ]
        won = await _race(
            *(stores[n % 2].end_job(job.id, ending, **COMPLETED) for n, ending in enumerate(endings))
        )
        assert won == 1
        ended = await stores[1].job(job.id)
        assert ended is not None
        assert (ended.state, ended.description) in {(e.state, e.description) for e in endings}


async def test_one_of_many_beginnings_wins(opened: Opened) -> None:
    stores = [await opened(), await opened()]
    for _ in range(SIZES.races):
        job = a_job()
        await stores[0].add_job(job)
        assert (
            await _race(
                *(
                    stores[n % 2].begin_attempt(an_attempt(job.id, replica=f"r{n}"))
                    for n in range(SIZES.racers)
                )
            )
            == 1
        )
        assert len(await stores[0].attempts(job.id)) == 1


async def test_attempt_is_lost_or_ends_but_not_both(opened: Opened) -> None:
    stores = [await opened(), await opened()]
    for _ in range(SIZES.races):
        job = await running(stores[0])
        lost, ended = [], []
        for n in range(SIZES.racers):
            lost.append(stores[n % 2].lose_attempt(job.id, 1))
            ended.append(stores[(n + 1) % 2].end_job(job.id, an_ending(), **COMPLETED))
        # Those who say the same get the same answer.
        assert sorted(await asyncio.gather(_race(*lost), _race(*ended))) == [0, SIZES.racers]
        (attempt,) = await stores[0].attempts(job.id)
        expected = {
            AttemptOutcome.LOST: JobState.QUEUED,
            AttemptOutcome.COMPLETED: JobState.COMPLETED,
        }
        assert attempt.outcome is not None
        assert await state(stores[1], job.id) is expected[attempt.outcome]


async def test_cancelled_or_begun_but_never_cancelled_with_an_open_attempt(opened: Opened) -> None:
    stores = [await opened(), await opened()]
    for _ in range(SIZES.races):
        job = a_job()
        await stores[0].add_job(job)
        begun, _ = await asyncio.gather(
            stores[0].begin_attempt(an_attempt(job.id)),
            stores[1].end_job(job.id, an_ending(JobState.CANCELLED), **CANCELLED_BEFORE),
        )
        assert await state(stores[0], job.id) is JobState.CANCELLED
        assert await stores[0].current_attempt(job.id) is None
        assert len(await stores[0].attempts(job.id)) == begun


async def test_retries_of_one_request_make_one_job(opened: Opened) -> None:
    stores = [await opened(), await opened()]
    for round_ in range(SIZES.races):
        retries = [a_job(client_key=f"k{round_}") for _ in range(SIZES.racers)]
        added = await asyncio.gather(*(stores[n % 2].add_job(job) for n, job in enumerate(retries)))
        assert len({job.id for job in added}) == 1
        assert added[0].id in {job.id for job in retries}
    assert len(await stores[0].jobs()) == SIZES.races


async def test_one_name_is_given_to_one_user(opened: Opened) -> None:
    stores = [await opened(), await opened()]
    users = [User(ADA, Role.RESEARCHER, float(n)) for n in range(SIZES.racers)]
    assert await _race(*(stores[n % 2].add_user(user) for n, user in enumerate(users))) == 1


async def test_many_writers_of_two_stores_lose_nothing(opened: Opened) -> None:
    stores = [await opened(), await opened()]
    jobs = [a_job() for _ in range(SIZES.racers * 10)]

    async def whole_life(store: RecordStore, job: Job) -> bool:
        await store.add_job(job)
        await store.begin_attempt(an_attempt(job.id))
        return await store.end_job(job.id, an_ending(), **COMPLETED)

    ended = await asyncio.gather(*(whole_life(stores[n % 2], job) for n, job in enumerate(jobs)))
    assert all(ended)
    listed = await stores[0].jobs(states=[JobState.COMPLETED], limit=10_000)
    assert {job.id for job in listed} == {job.id for job in jobs}


# -- callers that fail or leave ------------------------------------------------------------------------
async def test_write_that_nobody_waits_for_any_more_does_not_stop_the_others(store: RecordStore) -> None:
    """Found by this test: a cancelled call used to end the writer for good."""
    for _ in range(SIZES.races):
        tasks = [asyncio.ensure_future(store.add_job(a_job())) for _ in range(SIZES.racers)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        async with asyncio.timeout(60):
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            survivor = await store.add_job(a_job())
        assert all(isinstance(outcome, Job) for outcome in outcomes[1::2])
        assert await store.job(survivor.id) is not None


async def test_write_that_fails_leaves_those_beside_it_alone(store: RecordStore) -> None:
    jobs = [a_job() for _ in range(SIZES.racers)]
    key = a_key(1)
    await store.add_key(key)
    outcomes = await asyncio.gather(
        *(store.add_job(job) for job in jobs),
        store.add_key(replace(key, user=BOB)),
        store.add_job(a_job(model_key="\ud800")),
        return_exceptions=True,
    )
    assert [isinstance(outcome, Job) for outcome in outcomes] == [True] * len(jobs) + [False, False]
    assert isinstance(outcomes[-2], Exception)
    assert len(await store.jobs()) == len(jobs)


# -- blobs ---------------------------------------------------------------------------------------------
async def test_expired_blobs_are_those_of_jobs_that_ended_before_oldest_first(store: RecordStore) -> None:
    jobs = [await running(store) for _ in range(4)]
    for job, ended in zip(jobs[:3], (30.0, 10.0, 20.0), strict=True):
        await store.end_job(job.id, an_ending(), now=ended, attempt=1, outcome=AttemptOutcome.COMPLETED)
    assert [job.id for job in await store.expired_blobs(30.0)] == [jobs[1].id, jobs[2].id]
    assert [job.id for job in await store.expired_blobs(99.0, limit=1)] == [jobs[1].id]
    assert await store.mark_blobs_deleted([jobs[1]]) == {jobs[1].id}
    assert [job.id for job in await store.expired_blobs(99.0)] == [jobs[2].id, jobs[0].id]
    assert await store.mark_blobs_deleted([]) == set()
    assert [job.id for job in await store.expired_blobs(99.0)] == [jobs[2].id, jobs[0].id]


# -- links to results ------------------------------------------------------------------------------------
async def with_result(store: RecordStore) -> Job:
    """A job that has completed, as it is on record."""
    job = await running(store)
    ending = an_ending(result_bytes=7)
    await store.end_job(job.id, ending, now=5.0, attempt=1, outcome=AttemptOutcome.COMPLETED)
    return await found(store, job)


async def found(store: RecordStore, job: Job) -> Job:
    on_record = await store.job(job.id)
    assert on_record is not None
    return on_record


async def acts(store: RecordStore, job: Job) -> list[tuple[str, str]]:
    records = await store.audit(about=job.id)
    return [(each.entry.action, each.entry.actor) for each in records if "result" in each.entry.action]


async def test_revocations_are_counted_one_by_one(store: RecordStore) -> None:
    first = await with_result(store)
    assert await store.revoked_results() == []
    assert await store.revoke_links(first, by="user:u1")
    second = await found(store, first)
    assert second == replace(first, revocations=1)
    assert await store.revoke_links(second, by="user:u2")
    assert (await found(store, first)).revocations == 2
    assert await acts(store, first) == [
        ("result.links_revoked", "user:u1"),
        ("result.links_revoked", "user:u2"),
    ]
    assert await store.revoked_results() == [replace(first, revocations=2)]


async def test_a_revocation_asked_for_again_or_by_two_at_once_is_counted_once(store: RecordStore) -> None:
    job = await with_result(store)
    assert await asyncio.gather(*(store.revoke_links(job) for _ in range(5))) == [True] * 5
    assert (await found(store, job)).revocations == 1
    assert len(await acts(store, job)) == 1


async def test_only_a_result_that_is_kept_has_links_to_revoke(store: RecordStore) -> None:
    waits, runs, failed, gone = a_job(), await running(store), await running(store), await with_result(store)
    await store.add_job(waits)
    await store.end_job(
        failed.id, an_ending(JobState.FAILED), now=5.0, attempt=1, outcome=AttemptOutcome.FAILED
    )
    await store.mark_blobs_deleted([gone])
    for job in (waits, runs, failed, gone, a_job()):
        on_record = await store.job(job.id) or job
        assert not await store.revoke_links(on_record)
        assert await store.job(job.id) in (on_record, None)
        assert await acts(store, job) == []


async def test_blobs_that_got_other_names_meanwhile_are_not_marked_as_deleted(store: RecordStore) -> None:
    stale, other = await with_result(store), await with_result(store)
    await store.revoke_links(stale)
    assert await store.mark_blobs_deleted([stale, other]) == {other.id}
    assert await store.without_blobs([stale.id, other.id]) == {other.id}
    now = await found(store, stale)
    assert await store.mark_blobs_deleted([now]) == {stale.id}
    assert await store.revoked_results() == []
    assert not await store.revoke_links(now)
    assert not await store.revoke_links(stale), "what was revoked then is not kept any more"


async def test_a_deletion_is_in_the_log_once_if_somebody_asked_for_it(store: RecordStore) -> None:
    asked, retired = await with_result(store), await with_result(store)
    for _ in range(2):
        assert await store.mark_blobs_deleted([asked], by="user:u1") == {asked.id}
        assert await store.mark_blobs_deleted([retired]) == {retired.id}
    assert await acts(store, asked) == [("result.deleted", "user:u1")]
    assert await acts(store, retired) == []


# -- users and keys ------------------------------------------------------------------------------------
async def test_user_is_read_as_added(store: RecordStore) -> None:
    ada = User(ADA, Role.OPERATOR, 1.5, "ada@example.org")
    assert not await store.any_user()
    assert await store.add_user(ada)
    assert await store.any_user()
    assert await store.user(ADA) == ada
    assert await store.user(BOB) is None


async def test_taken_name_changes_nothing(store: RecordStore) -> None:
    ada = User(ADA, Role.RESEARCHER, 1.5)
    await store.add_user(ada)
    assert not await store.add_user(User(ADA, Role.OPERATOR, 2.5))
    assert await store.users() == [ada]


async def test_users_are_listed_by_name(store: RecordStore) -> None:
    for name in ("cyd", "ada", "bob"):
        await store.add_user(User(UserName(name), Role.RESEARCHER, 1.0))
    assert [user.name for user in await store.users()] == ["ada", "bob", "cyd"]


def a_key(number: int, user: UserName = ADA, **changes: Any) -> ApiKey:
    return ApiKey(f"id{number}", user, f"digest{number}", float(number), **changes)


async def test_key_is_found_by_id_and_digest(store: RecordStore) -> None:
    key = a_key(1, expires_at=99.5)
    await store.add_key(key)
    assert await store.key_by_id("id1") == key
    assert await store.key_by_digest("digest1") == key
    assert await store.key_by_id("digest1") is None
    assert await store.key_by_digest("id1") is None


async def test_keys_are_listed_in_the_order_of_their_making(store: RecordStore) -> None:
    keys = [a_key(2), a_key(1), a_key(3, BOB)]
    for key in keys:
        await store.add_key(key)
    assert await store.keys() == [keys[1], keys[0], keys[2]]
    assert await store.keys(BOB) == [keys[2]]


async def test_key_is_revoked_once(store: RecordStore) -> None:
    await store.add_key(a_key(1))
    assert await store.revoke_key("id1", 5.0)
    assert not await store.revoke_key("id1", 6.0)
    assert not await store.revoke_key("id2", 6.0)
    assert await store.key_by_id("id1") == a_key(1, revoked_at=5.0)


async def test_removed_user_loses_the_keys_and_keeps_the_jobs(store: RecordStore) -> None:
    for user in (ADA, BOB):
        await store.add_user(User(user, Role.RESEARCHER, 1.0))
    for key in (a_key(1), a_key(2), a_key(3, BOB)):
        await store.add_key(key)
    await store.revoke_key("id1", 2.0)
    job = a_job()
    await store.add_job(job)
    assert await store.remove_user(ADA, 7.0)
    assert not await store.remove_user(ADA, 8.0)
    assert await store.user(ADA) is None
    assert [key.revoked_at for key in await store.keys()] == [2.0, 7.0, None]
    assert await store.job(job.id) == job


async def test_store_that_can_be_written_says_so(store: RecordStore) -> None:
    await store.check()


# -- opening and closing -------------------------------------------------------------------------------
async def test_what_was_written_is_there_when_opened_again(opened: Opened) -> None:
    first = await opened()
    job = await running(first)
    await first.close()
    second = await opened()
    assert await state(second, job.id) is JobState.RUNNING
    assert await second.current_attempt(job.id) is not None


async def test_one_store_sees_at_once_what_another_has_written(opened: Opened) -> None:
    one, two = await opened(), await opened()
    for _ in range(20):
        job = a_job()
        await one.add_job(job)
        assert await two.job(job.id) == job
        assert await two.end_job(job.id, an_ending(JobState.CANCELLED), **CANCELLED_BEFORE)
        assert await state(one, job.id) is JobState.CANCELLED
