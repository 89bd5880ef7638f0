"""The contract of the record store: groups, quotas, usage and the audit log."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from edif.core.audit import GENESIS, actor_account, actor_user, faults
from edif.core.ids import ERASED, GroupName, UserName
from edif.core.job import AttemptOutcome, JobState
from edif.core.quota import Measure, Quota, Scope
from edif.core.usage import UsageRow
from edif.core.users import ApiKey, Group, Priority, Role, User
from edif.records.store import RecordStore
from tests.sizes import SIZES
from tests.unit.records.factories import ADA, BOB, a_job, an_attempt, an_ending

Opened = Callable[[], Awaitable[RecordStore]]
LAB = GroupName("lab")
OPERATOR = actor_account(0)
DAY_S = 86_400.0


def user(name: UserName = ADA, **changes: object) -> User:
    return User(**{"name": name, "role": Role.RESEARCHER, "created_at": 1.0, **changes})  # type: ignore[arg-type]


async def actions(store: RecordStore) -> list[tuple[str, str, str]]:
    return [(r.entry.action, r.entry.subject, r.entry.actor) for r in await store.audit()]


async def ended(
    store: RecordStore, now: float, state: JobState = JobState.COMPLETED, **ending: object
) -> None:
    job = a_job()
    await store.add_job(job)
    await store.begin_attempt(an_attempt(job.id))
    assert await store.end_job(
        job.id, an_ending(state, **ending), now=now, attempt=1, outcome=AttemptOutcome(state.value)
    )


# -- people --------------------------------------------------------------------------------------------
async def test_people_are_read_as_they_were_written(store: RecordStore) -> None:
    ada = user(group=LAB, weight=2.5, priority=Priority.HIGH, email="ada@example.org")
    lab = Group(LAB, 1.0, weight=4.0, priority=Priority.LOW)
    assert await store.add_group(lab)
    assert await store.add_user(ada)
    await store.set_quota(Scope.GROUP, LAB, Measure.SECONDS_PER_DAY, 60.5)
    people = await store.people()
    assert people.users == {ADA: ada}
    assert people.groups == {LAB: lab}
    assert people.group_quotas(LAB) == {
        Measure.SECONDS_PER_DAY: Quota(Scope.GROUP, LAB, Measure.SECONDS_PER_DAY, 60.5)
    }


async def test_every_change_moves_the_revision_and_nothing_else_does(store: RecordStore) -> None:
    lab = Group(LAB, 1.0)
    steps: list[tuple[Callable[[], Awaitable[object]], bool]] = [
        (lambda: store.add_group(lab), True),
        (lambda: store.add_group(lab), False),
        (lambda: store.change_group(Group(LAB, 1.0, 3.0)), True),
        (lambda: store.change_group(Group(GroupName("none"), 1.0)), False),
        (lambda: store.add_user(user()), True),
        (lambda: store.add_user(user()), False),
        (lambda: store.change_user(user(weight=3.0)), True),
        (lambda: store.change_user(user(BOB)), False),
        (lambda: store.set_quota(Scope.USER, ADA, Measure.QUEUED_JOBS, 5), True),
        (lambda: store.add_key(ApiKey("k1", ADA, "d1", 1.0)), False),
        (lambda: store.remove_group(LAB), True),
        (lambda: store.remove_group(LAB), False),
        (lambda: store.remove_user(ADA, 2.0), True),
        (lambda: store.remove_user(ADA, 2.0), False),
        (store.people, False),
    ]
    for number, (step, moves) in enumerate(steps):
        before = await store.people_revision()
        await step()
        assert (await store.people_revision() > before) is moves, f"step {number}"
    assert (await store.people()).revision == await store.people_revision()


async def test_what_may_change_about_a_user_is_changed_and_the_rest_stays(store: RecordStore) -> None:
    ada = user()
    await store.add_user(ada)
    assert await store.change_user(
        user(created_at=99.0, role=Role.OPERATOR, group=LAB, weight=7.0, priority=Priority.LOW, email="a@b")
    )
    found = await store.user(ADA)
    assert found is not None
    assert (found.id, found.created_at) == (ada.id, 1.0)
    assert (found.role, found.group, found.weight) == (Role.OPERATOR, LAB, 7.0)
    assert (found.priority, found.email) == (Priority.LOW, "a@b")


async def test_a_removed_group_leaves_its_users_without_one_and_no_quota(store: RecordStore) -> None:
    await store.add_group(Group(LAB, 1.0))
    await store.add_user(user(group=LAB))
    await store.set_quota(Scope.GROUP, LAB, Measure.QUEUED_JOBS, 5)
    assert await store.remove_group(LAB)
    people = await store.people()
    assert people.users[ADA].group is None
    assert not people.groups
    assert not people.quotas


async def test_a_removed_user_leaves_no_quota(store: RecordStore) -> None:
    await store.add_user(user())
    await store.set_quota(Scope.USER, ADA, Measure.QUEUED_JOBS, 5)
    await store.set_quota(Scope.EACH_USER, "", Measure.QUEUED_JOBS, 9)
    await store.remove_user(ADA, 2.0)
    assert set((await store.people()).quotas) == {(Scope.EACH_USER, "")}


async def test_a_quota_is_replaced_and_taken_away(store: RecordStore) -> None:
    for amount in (5.0, 7.0):
        await store.set_quota(Scope.EACH_USER, "", Measure.STORED_BYTES, amount)
    (quota,) = (await store.people()).user_quotas(ADA).values()
    assert quota.amount == 7.0
    await store.set_quota(Scope.EACH_USER, "", Measure.STORED_BYTES, None)
    assert not (await store.people()).quotas


async def test_nothing_names_an_erased_person_any_more(store: RecordStore) -> None:
    await store.add_user(user(email="ada@example.org"))
    await store.add_key(ApiKey("k1", ADA, "d1", 1.0))
    await store.set_quota(Scope.USER, ADA, Measure.QUEUED_JOBS, 5)
    await ended(store, 50.0, JobState.FAILED, description="in ada's code", meta={"x": 1})
    other = a_job(owner=BOB)
    await store.add_job(other)
    pseudonym = UserName("erased-1")
    await store.erase_user(ADA, pseudonym)
    assert await store.user(ADA) is None
    assert not await store.keys()
    assert not (await store.people()).quotas
    (job,) = await store.jobs(owner=pseudonym)
    assert (job.description, job.meta, job.client_key) == ("", {}, None)
    assert [row.user for row in await store.usage()] == [pseudonym]
    assert await store.jobs(owner=BOB) == [other]
    for record in await store.audit():
        assert "ada" not in f"{record.entry}".lower()


async def test_erasure_is_on_record_by_the_persons_id_though_the_user_was_removed_before(
    store: RecordStore,
) -> None:
    ada = user()
    await store.add_user(ada)
    await store.remove_user(ADA, 2.0)
    await store.erase_user(ADA, UserName(f"{ERASED}{ada.id}"), by=OPERATOR)
    assert (await actions(store))[-1] == ("user.erased", ada.id, OPERATOR)


# -- switches ------------------------------------------------------------------------------------------
async def test_drain_is_remembered_until_it_is_taken_back(store: RecordStore, opened: Opened) -> None:
    assert not await store.draining()
    for _ in range(2):
        await store.set_draining(True, by=OPERATOR)
        assert await (await opened()).draining()
    await store.set_draining(False, by=OPERATOR)
    assert not await (await opened()).draining()
    assert await actions(store) == [
        ("fabric.drain_asked", "", OPERATOR),
        ("fabric.drain_asked", "", OPERATOR),
        ("fabric.resumed", "", OPERATOR),
    ]


# -- usage ---------------------------------------------------------------------------------------------
async def test_jobs_that_end_are_counted_once_by_day_user_group_and_model(store: RecordStore) -> None:
    await store.add_group(Group(LAB, 1.0))
    await store.add_user(user(group=LAB))
    for now, seconds in ((10.0, 1.5), (DAY_S - 1, 2.0), (DAY_S, 4.0)):
        await ended(store, now, seconds=seconds, tokens=10, result_bytes=100)
    await ended(store, DAY_S + 1, JobState.FAILED, seconds=8.0)
    await store.change_user(user())
    await ended(store, DAY_S + 2, seconds=16.0)
    assert await store.usage() == [
        UsageRow(0, ADA, LAB, a_job().model, 2, 0, 3.5, 20, 200),
        UsageRow(1, ADA, None, a_job().model, 1, 0, 16.0, 0, 0),
        UsageRow(1, ADA, LAB, a_job().model, 2, 1, 12.0, 10, 100),
    ]
    assert [row.day for row in await store.usage(since=0, before=1)] == [0]
    assert [row.day for row in await store.usage(since=1)] == [1, 1]


async def test_a_second_ending_is_not_counted(store: RecordStore) -> None:
    job = a_job()
    await store.add_job(job)
    await store.begin_attempt(an_attempt(job.id))
    for _ in range(2):
        await store.end_job(
            job.id, an_ending(seconds=1.0), now=1.0, attempt=1, outcome=AttemptOutcome.COMPLETED
        )
    assert [row.seconds for row in await store.usage()] == [1.0]
    assert [action for action, _, _ in await actions(store)].count("job.completed") == 1


async def test_stored_bytes_are_those_not_yet_deleted(store: RecordStore) -> None:
    assert await store.stored_bytes() == {}
    await ended(store, 1.0, result_bytes=100, kept_bytes=7)
    waiting, gone = a_job(), a_job(owner=BOB)
    for job in (waiting, gone):
        await store.add_job(job)
    await store.mark_blobs_deleted([gone])
    assert await store.stored_bytes() == {ADA: 107}
    held = await store.held()
    assert (held.unfinished, held.payload_bytes, held.records) == (2, 20, 3)
    assert (held.results, held.result_bytes, held.oldest_result) == (1, 107, 1.0)
    assert waiting in await store.blobs_of(ADA)
    assert await store.blobs_of(BOB) == []


async def test_records_are_forgotten_only_without_blobs_and_after_their_time(store: RecordStore) -> None:
    for now in (1.0, 2.0, 3.0):
        await ended(store, now)
    old, middle, young = reversed(await store.jobs())
    await store.mark_blobs_deleted([old, young])
    assert await store.forget_jobs(3.0) == 1
    assert await store.job(old.id) is None
    assert await store.attempts(old.id) == []
    assert {job.id for job in await store.jobs()} == {middle.id, young.id}
    assert len(await store.usage()) == 1, "what was used stays counted"


# -- the audit log -------------------------------------------------------------------------------------
async def test_every_act_is_in_the_log_with_who_did_it(store: RecordStore) -> None:
    ada = user()
    await store.add_group(Group(LAB, 1.0), by=OPERATOR)
    await store.add_user(ada, by=OPERATOR)
    await store.change_user(user(group=LAB), by=OPERATOR)
    await store.set_quota(Scope.USER, ADA, Measure.QUEUED_JOBS, 5, by=OPERATOR)
    await store.add_key(ApiKey("k1", ADA, "d1", 1.0), by=OPERATOR)
    job = a_job()
    await store.add_job(job, by=actor_user(ada.id))
    await store.ask_cancel(job.id, by=actor_user(ada.id))
    await store.end_job(job.id, an_ending(JobState.CANCELLED), now=1.0, attempt=None, outcome=None)
    await store.revoke_key("k1", 2.0, by=OPERATOR)
    await store.remove_user(ADA, 3.0, by=OPERATOR)
    await store.remove_group(LAB, by=OPERATOR)
    await store.note("model.deployed", "m/one", by=OPERATOR, replicas=1)
    assert await actions(store) == [
        ("group.added", "lab", OPERATOR),
        ("user.added", ada.id, OPERATOR),
        ("user.changed", ada.id, OPERATOR),
        ("quota.set", ada.id, OPERATOR),
        ("key.made", "k1", OPERATOR),
        ("job.accepted", job.id, f"user:{ada.id}"),
        ("job.cancel_asked", job.id, f"user:{ada.id}"),
        ("job.cancelled", job.id, "fabric"),
        ("key.revoked", "k1", OPERATOR),
        ("user.removed", ada.id, OPERATOR),
        ("group.removed", "lab", OPERATOR),
        ("model.deployed", "m/one", OPERATOR),
    ]
    records = await store.audit()
    assert not list(faults(records))
    assert await store.audit_end() == (records[-1].number, records[-1].hash)
    assert records[-1].entry.detail == '{"replicas":1}'


async def test_an_empty_log_ends_where_it_begins(store: RecordStore) -> None:
    assert await store.audit() == []
    assert await store.audit_end() == (0, GENESIS)


async def test_what_did_not_happen_is_not_in_the_log(store: RecordStore) -> None:
    await store.add_user(user())
    job = a_job(client_key="same")
    await store.add_job(job)
    before = await store.audit_end()
    assert not await store.add_user(user())
    assert (await store.add_job(a_job(client_key="same"))).id == job.id
    assert not await store.revoke_key("none", 1.0)
    assert not await store.remove_user(BOB, 1.0)
    assert not await store.remove_group(LAB)
    assert not await store.ask_cancel(a_job().id)
    assert await store.audit_end() == before


async def test_the_chain_holds_when_one_of_many_acts_in_a_transaction_is_undone(store: RecordStore) -> None:
    await store.add_job(a_job(client_key="same"))
    twice = [a_job(client_key="same" if number % 3 == 1 else None) for number in range(SIZES.racers)]
    added = await asyncio.gather(*(store.add_job(job) for job in twice))
    records = await store.audit()
    assert len(records) == 1 + sum(one is other for one, other in zip(added, twice, strict=True))
    assert not list(faults(records))
    assert await store.audit_end() == (records[-1].number, records[-1].hash)


async def test_the_log_is_read_in_parts_and_about_one_thing(store: RecordStore) -> None:
    jobs = [a_job() for _ in range(4)]
    for job in jobs:
        await store.add_job(job, by="user:u1" if job is jobs[2] else "user:u2")
    assert [record.number for record in await store.audit(after=1, limit=2)] == [2, 3]
    assert [record.entry.subject for record in await store.audit(about=jobs[1].id)] == [jobs[1].id]
    assert [record.entry.subject for record in await store.audit(about="user:u1")] == [jobs[2].id]


@pytest.mark.slow
async def test_the_chain_holds_when_several_write_at_once(opened: Opened) -> None:
    stores = [await opened() for _ in range(2)]

    async def write(store: RecordStore, number: int) -> None:
        job = a_job()
        await store.add_job(job)
        if number % 3 == 0:
            await store.end_job(job.id, an_ending(JobState.FAILED), now=1.0, attempt=None, outcome=None)

    count = SIZES.racers * SIZES.races
    await asyncio.gather(*(write(stores[number % 2], number) for number in range(count)))
    records = await stores[0].audit(limit=10 * count)
    assert len(records) == count + -(-count // 3)
    assert not list(faults(records))
    assert await stores[1].audit_end() == (records[-1].number, records[-1].hash)


async def test_a_name_is_on_record_with_jobs_usage_or_keys_and_until_it_is_erased(store: RecordStore) -> None:
    assert not await store.on_record(ADA)
    await store.add_user(user())
    assert not await store.on_record(ADA), "who has done nothing leaves nothing"
    await store.add_key(ApiKey("k1", ADA, "d" * 64, 1.0))
    assert await store.on_record(ADA)
    await store.erase_user(ADA, UserName("erased-1"))
    assert not await store.on_record(ADA)
    await ended(store, 1.0)
    assert await store.on_record(ADA)
    assert not await store.on_record(BOB)
    await store.erase_user(ADA, UserName("erased-2"))
    assert not await store.on_record(ADA)
    assert await store.on_record(UserName("erased-2"))


async def test_a_job_is_found_by_its_owners_key(store: RecordStore) -> None:
    job = a_job(client_key="once")
    await store.add_job(job)
    assert await store.job_of_key(ADA, "once") == job
    assert await store.job_of_key(BOB, "once") is None
    assert await store.job_of_key(ADA, "twice") is None
