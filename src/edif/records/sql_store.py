"""The record store on SQLAlchemy Core: SQLite in WAL mode, one file in the data folder.

One thread writes. It takes all writes that wait, does them in one transaction (each in a savepoint of its
own, so that one that fails leaves the others alone) and syncs once: under load many jobs share the price of
one commit, and a call returns only when its effect is on disk (``synchronous=FULL``). Laws are checked in the
statements themselves (``WHERE state = ...``), so that two processes on one file cannot both win.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError

from edif.core import errors
from edif.core.errors import StoreUnavailable
from edif.core.ids import JobId, ModelId, UserName
from edif.core.job import FINAL_STATES, Attempt, AttemptOutcome, Ending, Job, JobState
from edif.core.users import ApiKey, Role, User
from edif.records.schema import api_keys, attempts, jobs, users

DATABASE_NAME = "records.sqlite"

_MAX_BATCH = 64
_READERS = 2
_WAL_SWITCH_S = 10.0
_IDS_PER_QUERY = 500

T = TypeVar("T")
_job_columns = [column for column in jobs.c if column.name != "blobs_deleted"]
_final_values = [state.value for state in FINAL_STATES]

# Built once: composing a statement costs more than SQLite needs to run it.
_insert_job = sa.insert(jobs)
_insert_attempt = sa.insert(attempts)
_select_job = sa.select(*_job_columns).where(jobs.c.id == sa.bindparam("job_id"))
_start_job = (
    sa.update(jobs)
    .where(jobs.c.id == sa.bindparam("job_id"), jobs.c.state == JobState.QUEUED.value)
    .values(state=JobState.RUNNING.value, attempts=sa.bindparam("number"))
)
_requeue_job = (
    sa.update(jobs)
    .where(jobs.c.id == sa.bindparam("job_id"), jobs.c.state == JobState.RUNNING.value)
    .values(state=JobState.QUEUED.value)
)
_close_attempt = (
    sa.update(attempts)
    .where(
        attempts.c.job == sa.bindparam("job_id"),
        attempts.c.number == sa.bindparam("attempt_number"),
        attempts.c.outcome.is_(None),
    )
    .values(outcome=sa.bindparam("new_outcome"))
)
_abandon_attempt = (
    sa.update(attempts)
    .where(attempts.c.job == sa.bindparam("job_id"), attempts.c.outcome.is_(None))
    .values(outcome=AttemptOutcome.LOST.value)
)
_end_job = (
    sa.update(jobs)
    .where(
        jobs.c.id == sa.bindparam("job_id"),
        jobs.c.state.not_in(_final_values),
        # An attempt may end its job only while it is the current one; -1 stands for "no attempt brings it".
        sa.or_(sa.bindparam("by_attempt") == -1, jobs.c.attempts == sa.bindparam("by_attempt")),
    )
    .values(
        {
            column: sa.bindparam(f"new_{column}")
            for column in (
                "state",
                "ended_at",
                "error_code",
                "description",
                "meta",
                "result_bytes",
                "result_sha256",
            )
        }
    )
)


def open_engine(path: Path, *, writing: bool) -> sa.Engine:
    """An engine on the SQLite file at ``path``, with the pragmas that durability and concurrency ask for.

    A writing engine begins every transaction with the write lock, so that none fails half way for another
    process's sake; a reading one never takes it.
    """
    engine = sa.create_engine(
        f"sqlite:///{path}", pool_size=_READERS, connect_args={"check_same_thread": False}
    )

    @sa.event.listens_for(engine, "connect")
    def _settle(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver's guess
        for pragma in ("busy_timeout=10000", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
        _use_wal(connection)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _use_wal(connection: Any) -> None:
    # A fresh file is switched by whoever is first; the others are told "locked" at once, not after the timeout.
    deadline = time.monotonic() + _WAL_SWITCH_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


class _Waiting(NamedTuple):
    work: Callable[[sa.Connection], Any]
    future: asyncio.Future[Any]


class _Writer:
    """The thread that writes, and the queue in front of it. It keeps one connection."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._connection: sa.Connection | None = None
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="records-writer", daemon=True)
        self._thread.start()

    async def do(self, work: Callable[[sa.Connection], T]) -> T:
        """Have the thread do ``work``; what it did is on disk when this returns."""
        if self._closed:
            raise RuntimeError("the record store is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put(_Waiting(work, future))
        return await future

    def close(self) -> None:
        """Finish what waits, and end the thread."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_for_work = True
        while open_for_work:
            batch = [self._queue.get()]
            while len(batch) < _MAX_BATCH:
                try:
                    batch.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            open_for_work = None not in batch
            # What its caller no longer waits for is not begun.
            self._do([item for item in batch if item is not None and not item.future.cancelled()])
        self._disconnect()

    def _do(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        outcomes: list[tuple[Any, Exception | None]] = []
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            with self._connection.begin():
                for work, _ in batch:
                    outcomes.append(self._one(self._connection, work, alone=len(batch) == 1))
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait are told
            outcomes = [(None, error)] * len(batch)
            self._disconnect()
        loops = {waiting.future.get_loop() for waiting in batch}
        for loop in loops:  # one, outside of tests: so one wake-up for the whole batch
            answers = [
                (waiting.future, result, failure)
                for waiting, (result, failure) in zip(batch, outcomes, strict=True)
                if waiting.future.get_loop() is loop
            ]
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                loop.call_soon_threadsafe(_answer, answers)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @staticmethod
    def _one(
        connection: sa.Connection, work: Callable[[sa.Connection], Any], *, alone: bool
    ) -> tuple[Any, Exception | None]:
        if alone:
            return work(connection), None
        try:
            with connection.begin_nested():
                return work(connection), None
        except OperationalError:
            raise  # a full disk or a lock: the transaction is over, for all of them
        except Exception as error:  # noqa: BLE001 - its caller is told; the others are not touched
            return None, error


def _answer(answers: list[tuple[asyncio.Future[Any], Any, Exception | None]]) -> None:
    for future, result, failure in answers:
        if future.done():
            continue
        if failure is None:
            future.set_result(result)
        else:
            future.set_exception(_told(failure))


def _told(error: Exception) -> Exception:
    if isinstance(error, OperationalError):
        unavailable = StoreUnavailable(
            errors.STORAGE_FULL,
            f"The fabric's record store cannot write: {error.orig}; nothing was recorded.",
        )
        unavailable.__cause__ = error
        return unavailable
    return error


class SqlRecordStore:
    """See :class:`edif.records.store.RecordStore`; open it with :func:`edif.records.migrate.open_store`."""

    def __init__(self, path: Path) -> None:
        self._write_engine = open_engine(path, writing=True)
        self._read_engine = open_engine(path, writing=False)
        self._writer = _Writer(self._write_engine)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="records-reader")

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.close()
        self._readers.shutdown()
        self._write_engine.dispose()
        self._read_engine.dispose()

    async def _write(self, work: Callable[[sa.Connection], T]) -> T:
        return await self._writer.do(work)

    async def _run(self, statement: sa.Executable, values: dict[str, Any] | None = None) -> int:
        """One statement in a transaction of its own; the number of rows that it changed."""
        return await self._write(lambda connection: connection.execute(statement, values).rowcount)

    async def _fetch(
        self, statement: sa.Select[Any], values: dict[str, Any] | None = None
    ) -> Sequence[sa.Row[Any]]:
        def read() -> Sequence[sa.Row[Any]]:
            with self._read_engine.connect() as connection:
                return connection.execute(statement, values).all()

        return await asyncio.get_running_loop().run_in_executor(self._readers, read)

    # -- jobs ------------------------------------------------------------------------------------------
    async def add_job(self, job: Job) -> Job:
        values = _job_values(job)
        try:
            await self._run(_insert_job, values)
        except IntegrityError:
            if job.client_key is None:
                raise
            rows = await self._fetch(
                sa.select(*_job_columns).where(jobs.c.owner == job.owner, jobs.c.client_key == job.client_key)
            )
            return _job(rows[0])
        return job

    async def job(self, job_id: JobId) -> Job | None:
        rows = await self._fetch(_select_job, {"job_id": job_id})
        return _job(rows[0]) if rows else None

    async def jobs(
        self, *, owner: UserName | None = None, states: Sequence[JobState] = (), limit: int = 100
    ) -> list[Job]:
        statement = sa.select(*_job_columns).order_by(jobs.c.created_at.desc(), jobs.c.id).limit(limit)
        if owner is not None:
            statement = statement.where(jobs.c.owner == owner)
        if states:
            statement = statement.where(jobs.c.state.in_([state.value for state in states]))
        return [_job(row) for row in await self._fetch(statement)]

    async def unfinished_jobs(self) -> list[Job]:
        statement = (
            sa.select(*_job_columns)
            .where(jobs.c.state.in_([JobState.QUEUED.value, JobState.RUNNING.value]))
            .order_by(jobs.c.created_at, jobs.c.id)
        )
        return [_job(row) for row in await self._fetch(statement)]

    async def begin_attempt(self, attempt: Attempt) -> bool:
        def work(connection: sa.Connection) -> bool:
            changed = connection.execute(_start_job, {"job_id": attempt.job, "number": attempt.number})
            if changed.rowcount != 1:
                return False
            connection.execute(_insert_attempt, _attempt_values(attempt))
            return True

        return await self._write(work)

    async def lose_attempt(self, job_id: JobId, number: int) -> bool:
        def work(connection: sa.Connection) -> bool:
            if not _end_attempt(connection, job_id, number, AttemptOutcome.LOST):
                return False
            connection.execute(_requeue_job, {"job_id": job_id})
            return True

        return await self._write(work)

    async def end_job(
        self,
        job_id: JobId,
        ending: Ending,
        *,
        now: float,
        attempt: int | None,
        outcome: AttemptOutcome | None,
    ) -> bool:
        if ending.state not in FINAL_STATES:
            raise ValueError(f"{ending.state} does not end a job")
        if (attempt is None) != (outcome is None):
            raise ValueError("an attempt ends with an outcome")
        values = {
            "job_id": job_id,
            "by_attempt": -1 if attempt is None else attempt,
            "new_state": ending.state.value,
            "new_ended_at": now,
            "new_error_code": ending.error_code,
            "new_description": ending.description,
            "new_meta": _json(ending.meta),
            "new_result_bytes": ending.result_bytes,
            "new_result_sha256": ending.result_sha256,
        }

        def work(connection: sa.Connection) -> bool:
            if (
                attempt is not None
                and outcome is not None
                and not _end_attempt(connection, job_id, attempt, outcome)
            ):
                return False
            ended = connection.execute(_end_job, values).rowcount == 1
            if ended and attempt is None:
                connection.execute(_abandon_attempt, {"job_id": job_id})
            return ended

        return await self._write(work)

    async def ask_cancel(self, job_id: JobId) -> bool:
        statement = (
            sa.update(jobs)
            .where(jobs.c.id == job_id, jobs.c.state.not_in(_final_values))
            .values(cancel_asked=True)
        )
        return await self._run(statement) == 1

    async def current_attempt(self, job_id: JobId) -> Attempt | None:
        rows = await self._fetch(
            sa.select(attempts).where(attempts.c.job == job_id, attempts.c.outcome.is_(None))
        )
        return _attempt(rows[0]) if rows else None

    async def attempts(self, job_id: JobId) -> list[Attempt]:
        rows = await self._fetch(
            sa.select(attempts).where(attempts.c.job == job_id).order_by(attempts.c.number)
        )
        return [_attempt(row) for row in rows]

    async def expired_blobs(self, ended_before: float, limit: int = 100) -> list[JobId]:
        rows = await self._fetch(
            sa.select(jobs.c.id)
            .where(jobs.c.ended_at < ended_before, jobs.c.blobs_deleted.is_(False))
            .order_by(jobs.c.ended_at)
            .limit(limit)
        )
        return [JobId(row.id) for row in rows]

    async def unknown_jobs(self, job_ids: Collection[JobId]) -> set[JobId]:
        unknown = set(job_ids)
        asked = list(unknown)
        for start in range(0, len(asked), _IDS_PER_QUERY):
            some = asked[start : start + _IDS_PER_QUERY]
            for row in await self._fetch(sa.select(jobs.c.id).where(jobs.c.id.in_(some))):
                unknown.discard(JobId(row.id))
        return unknown

    async def mark_blobs_deleted(self, job_ids: Sequence[JobId]) -> None:
        statement = sa.update(jobs).where(jobs.c.id.in_(job_ids)).values(blobs_deleted=True)
        await self._run(statement)

    # -- users and keys --------------------------------------------------------------------------------
    async def any_user(self) -> bool:
        return bool(await self._fetch(sa.select(users.c.name).limit(1)))

    async def add_user(self, user: User) -> bool:
        values = {
            "name": user.name,
            "role": user.role.value,
            "email": user.email,
            "created_at": user.created_at,
        }
        try:
            await self._run(sa.insert(users), values)
        except IntegrityError:
            return False
        return True

    async def users(self) -> list[User]:
        return [_user(row) for row in await self._fetch(sa.select(users).order_by(users.c.name))]

    async def user(self, name: UserName) -> User | None:
        rows = await self._fetch(sa.select(users).where(users.c.name == name))
        return _user(rows[0]) if rows else None

    async def remove_user(self, name: UserName, now: float) -> bool:
        def work(connection: sa.Connection) -> bool:
            removed = connection.execute(sa.delete(users).where(users.c.name == name))
            connection.execute(
                sa.update(api_keys)
                .where(api_keys.c.user == name, api_keys.c.revoked_at.is_(None))
                .values(revoked_at=now)
            )
            return removed.rowcount == 1

        return await self._write(work)

    async def add_key(self, key: ApiKey) -> None:
        values = {
            "id": key.id,
            "user": key.user,
            "digest": key.digest,
            "created_at": key.created_at,
            "expires_at": key.expires_at,
            "revoked_at": key.revoked_at,
        }
        await self._run(sa.insert(api_keys), values)

    async def keys(self, user: UserName | None = None) -> list[ApiKey]:
        statement = sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        if user is not None:
            statement = statement.where(api_keys.c.user == user)
        return [_key(row) for row in await self._fetch(statement)]

    async def key_by_digest(self, digest: str) -> ApiKey | None:
        rows = await self._fetch(sa.select(api_keys).where(api_keys.c.digest == digest))
        return _key(rows[0]) if rows else None

    async def key_by_id(self, key_id: str) -> ApiKey | None:
        rows = await self._fetch(sa.select(api_keys).where(api_keys.c.id == key_id))
        return _key(rows[0]) if rows else None

    async def revoke_key(self, key_id: str, now: float) -> bool:
        statement = (
            sa.update(api_keys)
            .where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
            .values(revoked_at=now)
        )
        return await self._run(statement) == 1


def _end_attempt(connection: sa.Connection, job_id: JobId, number: int, outcome: AttemptOutcome) -> bool:
    """Give the attempt its outcome; False if it has one already or does not exist."""
    values = {"job_id": job_id, "attempt_number": number, "new_outcome": outcome.value}
    return connection.execute(_close_attempt, values).rowcount == 1


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _job_values(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "owner": job.owner,
        "model": job.model,
        "model_key": job.model_key,
        "client_key": job.client_key,
        "compress": job.compress,
        "env": _json(job.env),
        "payload_bytes": job.payload_bytes,
        "created_at": job.created_at,
        "state": job.state.value,
        "attempts": job.attempts,
        "ended_at": job.ended_at,
        "error_code": job.error_code,
        "description": job.description,
        "meta": _json(job.meta),
        "result_bytes": job.result_bytes,
        "result_sha256": job.result_sha256,
        "blobs_deleted": False,
        "cancel_asked": job.cancel_asked,
    }


def _job(row: sa.Row[Any]) -> Job:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    values["state"] = JobState(values["state"])
    values["env"] = msgspec.json.decode(values["env"])
    values["meta"] = msgspec.json.decode(values["meta"])
    values["id"] = JobId(values["id"])
    values["model"] = ModelId(values["model"])
    return Job(**values)


def _attempt_values(attempt: Attempt) -> dict[str, Any]:
    return {
        "job": attempt.job,
        "number": attempt.number,
        "agent": attempt.agent,
        "replica": attempt.replica,
        "started_at": attempt.started_at,
        "lease_until": attempt.lease_until,
        "outcome": None,
    }


def _attempt(row: sa.Row[Any]) -> Attempt:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    if values["outcome"] is not None:
        values["outcome"] = AttemptOutcome(values["outcome"])
    return Attempt(**values)


def _user(row: sa.Row[Any]) -> User:
    return User(UserName(row.name), Role(row.role), row.created_at, row.email)


def _key(row: sa.Row[Any]) -> ApiKey:
    return ApiKey(row.id, UserName(row.user), row.digest, row.created_at, row.expires_at, row.revoked_at)
