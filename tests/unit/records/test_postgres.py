"""What is particular to the store on PostgreSQL: a network, a server that is started again, and one that leads."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest
from structlog.testing import capture_logs

from edif.core import errors
from edif.core.audit import faults
from edif.core.errors import LeadLost, Refused, SetupError, StoreUnavailable
from edif.core.ids import GroupName
from edif.core.job import AttemptOutcome, JobState
from edif.core.quota import Measure, Scope
from edif.core.users import ApiKey, Group, Role, User
from edif.records import postgres as postgres_module
from edif.records.migrate import open_store
from edif.records.sql_store import SqlRecordStore
from tests.servers.cutter import Cut, Cutter, cutter
from tests.servers.postgres import ESCAPED_PASSWORD, PASSWORD, PostgresServer, running_postgres
from tests.sizes import SIZES
from tests.unit.records.factories import ADA, a_job, an_attempt, an_ending

T = TypeVar("T")
Opened = Callable[..., Awaitable[SqlRecordStore]]

LEADING = 0x65444946


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.new_database()


@pytest.fixture
async def opened(url: str, tmp_path: Path) -> AsyncIterator[Opened]:
    """Opens one more store, on the test's database unless another URL is named."""
    async with AsyncExitStack() as stack:

        async def open_another(at: str = url, *, leading: bool = False) -> SqlRecordStore:
            store = await open_store(tmp_path, at, leading=leading)
            stack.push_async_callback(store.close)
            return store

        yield open_another


@pytest.fixture
async def network(url: str) -> AsyncIterator[Cutter]:
    async with cutter(url) as made:
        yield made


async def durably(write: Callable[[], Awaitable[T]]) -> T:
    """As the gateway does it: asked for until it is answered."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await write()
            except StoreUnavailable:
                await asyncio.sleep(0.05)


def count_sessions(url: str) -> int:
    """Sessions of writers, open now."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name LIKE 'edif writer%' AND datname = current_database()"
        ).fetchone()
    assert found is not None
    return int(found[0])


def end_sessions(url: str, of: str = "edif writer%") -> int:
    """As an administrator would; the number of sessions that were ended."""
    with psycopg.connect(url, autocommit=True) as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE %s AND datname = current_database()",
            [of],
        )
        return len(ended.fetchall())


# -- sessions ------------------------------------------------------------------------------------------
async def test_commits_are_on_disk_and_the_dead_are_noticed_whatever_is_usual_there(
    url: str, opened: Opened
) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        (name,) = connection.execute("SELECT current_database()").fetchone() or ("",)
        connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    store = await opened()
    names = (
        "synchronous_commit",
        "tcp_keepalives_idle",
        "tcp_user_timeout",
        "client_connection_check_interval",
    )
    values = await store._write(
        lambda c: [c.exec_driver_sql("SELECT current_setting(%s)", (name,)).scalar_one() for name in names]
    )
    assert values == ["on", "3", "10000", "2s"]


async def test_stricter_commits_stay_strict(url: str, opened: Opened) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        (name,) = connection.execute("SELECT current_database()").fetchone() or ("",)
        connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = remote_apply')
    store = await opened()
    value = await store._write(lambda c: c.exec_driver_sql("SHOW synchronous_commit").scalar_one())
    assert value == "remote_apply"


async def test_text_that_does_not_fit_is_refused_and_harms_nobody(opened: Opened) -> None:
    store = await opened(leading=True)
    jobs = [a_job(), a_job(client_key="k" * 101), a_job(model_key="a\0b"), a_job()]
    outcomes = await asyncio.gather(*(store.add_job(job) for job in jobs), return_exceptions=True)
    assert [isinstance(outcome, Refused) for outcome in outcomes] == [False, True, True, False]
    assert {job.id for job in await store.jobs()} == {jobs[0].id, jobs[3].id}


# -- servers that cannot be used -----------------------------------------------------------------------
@pytest.mark.parametrize(
    "wrong",
    [
        "postgresql://postgres:hunter2@127.0.0.1:1/edif",
        "postgresql://postgres:hunter2@{server}/edif",
        "postgresql://postgres:hunter2/x@{server}/edif",
        "postgresql://postgres:p@hunter2@{server}/edif",
        "postgresql://postgres:hunter2@{server}/edif?sslmode=hunter2",
        "postgresql://[hunter2",
    ],
)
async def test_password_of_a_wrong_url_is_not_told(
    wrong: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    with capture_logs() as logs, pytest.raises(SetupError) as refused:
        await open_store(tmp_path, wrong.format(server=f"127.0.0.1:{postgres.port}"))
    assert refused.value.kind in (errors.STORE_UNREACHABLE, errors.CONFIG_INVALID)
    if "sslmode" not in wrong:  # there it is no password
        assert "hunter2" not in refused.value.detail + repr(logs)


async def test_database_that_is_not_there_is_named(postgres: PostgresServer, tmp_path: Path) -> None:
    with pytest.raises(SetupError) as refused:
        await open_store(tmp_path, postgres.url("nowhere"))
    assert refused.value.kind is errors.STORE_UNREACHABLE
    assert "nowhere" in refused.value.sentence
    assert PASSWORD not in refused.value.detail
    assert ESCAPED_PASSWORD not in refused.value.detail


async def test_store_that_is_away_says_so_to_readers_and_writers_and_comes_back(
    opened: Opened, network: Cutter
) -> None:
    store = await opened(network.url, leading=True)
    job = await store.add_job(a_job())
    network.down = True
    for call in (store.job(job.id), store.add_job(a_job()), store.check(), store.any_user()):
        with pytest.raises(StoreUnavailable) as unavailable:
            await call
        assert unavailable.value.kind is errors.STORE_UNREACHABLE
        assert not unavailable.value.in_doubt
    network.down = False
    assert await store.job(job.id) == job
    await store.add_job(a_job())
    assert len(await store.jobs()) == 2


async def test_sessions_that_were_ended_meanwhile_are_not_noticed(url: str, opened: Opened) -> None:
    store = await opened(leading=True)
    job = await store.add_job(a_job())
    assert await store.job(job.id) == job
    assert end_sessions(url, "edif%") >= 2
    assert await store.job(job.id) == job
    assert await store.begin_attempt(an_attempt(job.id))


# -- commits in doubt ----------------------------------------------------------------------------------
@pytest.mark.parametrize("how", Cut)
async def test_every_write_in_doubt_is_told_as_such_and_may_be_asked_again(
    how: Cut, opened: Opened, network: Cutter
) -> None:
    store = await opened(network.url, leading=True)
    one, two, keyed = a_job(), a_job(), a_job(client_key="k")
    attempt, again, other = an_attempt(one.id), an_attempt(one.id, 2), an_attempt(two.id)
    group = Group(GroupName("lab"), 1.0)
    user, key = User(ADA, Role.RESEARCHER, 1.0), ApiKey("id", ADA, "digest", 1.0)
    ended = {"now": 5.0, "attempt": 2, "outcome": AttemptOutcome.COMPLETED}
    writes: list[tuple[Callable[[], Awaitable[object]], object]] = [
        (lambda: store.add_job(one), one),
        (lambda: store.add_job(two), two),
        (lambda: store.add_job(keyed), keyed),
        (lambda: store.begin_attempt(attempt), True),
        (lambda: store.lose_attempt(one.id, 1), True),
        (lambda: store.begin_attempt(again), True),
        (lambda: store.ask_cancel(one.id), True),
        (lambda: store.end_job(one.id, an_ending(description="Done."), **ended), True),  # type: ignore[arg-type]
        (lambda: store.begin_attempt(other), True),
        (lambda: store.end_job(two.id, an_ending(), now=6.0, attempt=None, outcome=None), True),
        (lambda: store.revoke_links(one, by="user:u1"), True),
        (lambda: store.mark_blobs_deleted([replace(one, revocations=1)], by="user:u1"), {one.id}),
        (lambda: store.add_user(user), True),
        (lambda: store.add_key(key), None),
        (lambda: store.revoke_key("id", 7.0), True),
        (lambda: store.add_group(group), True),
        (lambda: store.change_user(replace(user, group=group.name)), True),
        (lambda: store.set_quota(Scope.GROUP, group.name, Measure.QUEUED_JOBS, 5.0), None),
    ]
    for write, answer in writes:
        network.next_cut = how
        with pytest.raises(StoreUnavailable) as unavailable:
            await write()
        assert unavailable.value.in_doubt
        assert "may have been" in unavailable.value.sentence
        assert await write() == answer
    assert {job.id: job.state for job in await store.jobs()} == {
        one.id: JobState.COMPLETED,
        two.id: JobState.COMPLETED,
        keyed.id: JobState.QUEUED,
    }
    outcomes = [each.outcome for each in await store.attempts(one.id)]
    assert outcomes == [AttemptOutcome.LOST, AttemptOutcome.COMPLETED]
    assert [job.id for job in await store.expired_blobs(99.0)] == [two.id]
    assert sum(row.jobs for row in await store.usage()) == 2
    acts = await store.audit()
    assert [act.entry.action for act in acts].count("job.completed") == 2
    assert not list(faults(acts))


async def test_all_that_share_a_commit_in_doubt_are_told(opened: Opened, network: Cutter) -> None:
    store = await opened(network.url)
    jobs = [a_job() for _ in range(SIZES.racers)]
    network.next_cut = Cut.AFTER_COMMIT
    outcomes = await asyncio.gather(*(store.add_job(job) for job in jobs), return_exceptions=True)
    in_doubt = {
        job.id
        for job, outcome in zip(jobs, outcomes, strict=True)
        if isinstance(outcome, StoreUnavailable) and outcome.in_doubt
    }
    assert in_doubt
    assert in_doubt | {job.id for job in jobs if job in outcomes} == {job.id for job in jobs}
    assert {job.id for job in await store.jobs()} == {job.id for job in jobs}
    for job in jobs:
        assert await store.add_job(job) == job
    assert len(await store.jobs()) == len(jobs)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_server_that_is_started_again_in_the_middle_of_writes_loses_and_doubles_nothing(
    how: signal.Signals, tmp_path: Path
) -> None:
    """SIGINT is a fast shutdown; SIGQUIT a crash, after which it recovers from its log."""
    with running_postgres() as server:
        store = await open_store(tmp_path, server.new_database(), leading=True)
        jobs = [a_job() for _ in range(SIZES.racers * 12)]
        seen: list[str] = []

        async def life(number: int) -> None:
            job = jobs[number]
            await durably(lambda: store.add_job(job))
            attempt = an_attempt(job.id)
            assert await durably(lambda: store.begin_attempt(attempt))
            if number % 2:
                assert await durably(lambda: store.lose_attempt(job.id, 1))
                second = an_attempt(job.id, 2)
                assert await durably(lambda: store.begin_attempt(second))
            assert await durably(
                lambda: store.end_job(
                    job.id, an_ending(), now=1.0, attempt=1 + number % 2, outcome=AttemptOutcome.COMPLETED
                )
            )
            found = await durably(lambda: store.job(job.id))
            assert found is not None
            seen.append(found.id)

        async def some(first: int) -> None:
            for number in range(first, len(jobs), SIZES.racers):
                await life(number)

        async def restarts() -> None:
            for part in (1, 2, 3):
                while len(seen) < part * len(jobs) // 5:
                    await asyncio.sleep(0.002)
                await asyncio.to_thread(server.stop, how)
                await asyncio.to_thread(server.start)

        await asyncio.gather(restarts(), *(some(n) for n in range(SIZES.racers)))
        recorded = await store.jobs(limit=10_000)
        assert {job.id: (job.state, job.attempts) for job in recorded} == {
            job.id: (JobState.COMPLETED, 1 + number % 2) for number, job in enumerate(jobs)
        }
        for number, job in enumerate(jobs):
            outcomes = [attempt.outcome for attempt in await store.attempts(job.id)]
            assert outcomes == [AttemptOutcome.LOST] * (number % 2) + [AttemptOutcome.COMPLETED]
        await store.close()


# -- who leads -----------------------------------------------------------------------------------------
async def test_one_leads_and_others_may_write_beside_it_without(opened: Opened) -> None:
    leader = await opened(leading=True)
    with pytest.raises(LeadLost):
        await opened(leading=True)
    beside = await opened()
    assert await beside.add_user(User(ADA, Role.RESEARCHER, 1.0))
    assert await leader.any_user()
    await leader.check()
    await leader.close()
    successor = await opened(leading=True)
    await successor.check()


async def test_leads_of_two_databases_are_two(opened: Opened, postgres: PostgresServer) -> None:
    await opened(leading=True)
    other = await opened(postgres.new_database(), leading=True)
    await other.check()


async def test_leader_whose_session_ended_leads_again_if_nobody_else_does(url: str, opened: Opened) -> None:
    leader = await opened(leading=True)
    assert end_sessions(url) == 1
    await leader.check()
    with pytest.raises(LeadLost):
        await opened(leading=True)


async def test_who_has_lost_the_lead_writes_nothing_more(url: str, opened: Opened, network: Cutter) -> None:
    old = await opened(network.url, leading=True)
    job = await old.add_job(a_job())
    network.down = True
    assert end_sessions(url) == 1
    new = await opened(leading=True)
    network.down = False
    for write in (
        old.add_job(a_job()),
        old.begin_attempt(an_attempt(job.id)),
        old.end_job(job.id, an_ending(), now=1.0, attempt=None, outcome=None),
        old.check(),
    ):
        with pytest.raises(LeadLost) as lost:
            await write
        assert not lost.value.in_doubt
    assert await new.jobs() == [job]
    assert await new.begin_attempt(an_attempt(job.id))


async def test_own_session_of_which_only_the_server_knows_does_not_keep_the_lead(
    url: str, opened: Opened, network: Cutter
) -> None:
    """Nor can what it sent come in later: it is over before anything new is written."""
    leader = await opened(network.url, leading=True)
    network.next_cut = Cut.UNNOTICED
    job = a_job()
    with pytest.raises(StoreUnavailable) as unavailable:
        await leader.add_job(job)
    assert unavailable.value.in_doubt
    assert await leader.add_job(job) == job
    with psycopg.connect(url) as connection:
        holders = connection.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s", [LEADING]
        ).fetchone()
    assert holders == (1,)


async def test_own_session_that_ends_while_the_lead_is_asked_for_is_no_other_gateway(
    url: str, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(psycopg.connect(url)) as former:
        former.execute("SELECT pg_advisory_lock(%s, %s)", postgres_module._LEAD)
        # When the list of its own sessions is asked for, the last of them is just gone.
        gone = f"SELECT 1 FROM pg_terminate_backend({former.info.backend_pid}, 60000) AS done WHERE done::text = %s"
        monkeypatch.setattr(postgres_module, "_END_FORMER", gone)
        leader = await opened(leading=True)
        await leader.check()


async def test_who_may_not_lead_leaves_no_session_behind(url: str, opened: Opened) -> None:
    await opened(leading=True)
    for _ in range(3):
        with pytest.raises(LeadLost):
            await opened(leading=True)
    async with asyncio.timeout(60):  # the server takes its time over the end of a session
        while count_sessions(url) > 1:
            await asyncio.sleep(0.05)
    assert end_sessions(url) == 1, "the leader's own"
