"""The record store on SQLAlchemy: SQLite in WAL mode, one file in the data folder.

Every write is one transaction that is on disk when the call returns (``synchronous=FULL``). Writes of one
process take turns on one connection: SQLite has one writer anyway, and waiting here is cheaper than its
busy handler. Laws are checked in the statement itself (``WHERE state = ...``), so that two processes on one
file cannot both win.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from edif.core import errors
from edif.core.errors import StoreUnavailable
from edif.core.ids import JobId, ModelId, UserName
from edif.core.job import FINAL_STATES, Attempt, AttemptOutcome, Ending, Job, JobState
from edif.core.users import ApiKey, Role, User
from edif.records.schema import api_keys, attempts, jobs, users

DATABASE_NAME = "records.sqlite"

_job_columns = [column for column in jobs.c if column.name != "blobs_deleted"]


def open_engine(path: Path) -> AsyncEngine:
    """An engine on the SQLite file at ``path``, with the pragmas that durability and concurrency ask for."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", pool_size=4, max_overflow=4)

    @sa.event.listens_for(engine.sync_engine, "connect")
    def _pragmas(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "busy_timeout=10000",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


class SqlRecordStore:
    """See :class:`edif.records.store.RecordStore`; open it with :func:`edif.records.migrate.open_store`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writing = asyncio.Lock()
        self._writer: AsyncConnection | None = None

    async def close(self) -> None:
        async with self._writing:
            if self._writer is not None:
                await self._writer.close()
                self._writer = None
        await self._engine.dispose()

    @asynccontextmanager
    async def _write(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._writing:
                if self._writer is None:
                    self._writer = await self._engine.connect()
                async with self._writer.begin():
                    yield self._writer
        except OperationalError as error:
            raise StoreUnavailable(
                errors.STORAGE_FULL,
                f"The fabric's record store cannot write: {error.orig}; nothing was recorded.",
            ) from error

    async def _fetch(self, statement: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        async with self._engine.connect() as connection:
            rows: Sequence[sa.Row[Any]] = (await connection.execute(statement)).all()
            return rows

    # -- jobs ------------------------------------------------------------------------------------------
    async def add_job(self, job: Job) -> Job:
        values = _job_values(job)
        try:
            async with self._write() as connection:
                await connection.execute(sa.insert(jobs), values)
        except IntegrityError:
            if job.client_key is None:
                raise
            rows = await self._fetch(
                sa.select(*_job_columns).where(jobs.c.owner == job.owner, jobs.c.client_key == job.client_key)
            )
            return _job(rows[0])
        return job

    async def job(self, job_id: JobId) -> Job | None:
        rows = await self._fetch(sa.select(*_job_columns).where(jobs.c.id == job_id))
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
        async with self._write() as connection:
            changed = await connection.execute(
                sa.update(jobs)
                .where(jobs.c.id == attempt.job, jobs.c.state == JobState.QUEUED.value)
                .values(state=JobState.RUNNING.value, attempts=attempt.number)
            )
            if changed.rowcount != 1:
                return False
            await connection.execute(
                sa.insert(attempts),
                {
                    "job": attempt.job,
                    "number": attempt.number,
                    "agent": attempt.agent,
                    "replica": attempt.replica,
                    "started_at": attempt.started_at,
                    "lease_until": attempt.lease_until,
                    "outcome": None,
                },
            )
            return True

    async def lose_attempt(self, job_id: JobId, number: int) -> bool:
        async with self._write() as connection:
            if not await self._close_attempt(connection, job_id, number, AttemptOutcome.LOST):
                return False
            await connection.execute(
                sa.update(jobs)
                .where(jobs.c.id == job_id, jobs.c.state == JobState.RUNNING.value)
                .values(state=JobState.QUEUED.value)
            )
            return True

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
        async with self._write() as connection:
            statement = sa.update(jobs).where(
                jobs.c.id == job_id, jobs.c.state.not_in([state.value for state in FINAL_STATES])
            )
            if attempt is not None:
                if outcome is None or not await self._close_attempt(connection, job_id, attempt, outcome):
                    return False
                statement = statement.where(jobs.c.attempts == attempt)
            changed = await connection.execute(
                statement.values(
                    state=ending.state.value,
                    ended_at=now,
                    error_code=ending.error_code,
                    description=ending.description,
                    meta=_json(ending.meta),
                    result_bytes=ending.result_bytes,
                    result_sha256=ending.result_sha256,
                )
            )
            return changed.rowcount == 1

    @staticmethod
    async def _close_attempt(
        connection: AsyncConnection, job_id: JobId, number: int, outcome: AttemptOutcome
    ) -> bool:
        changed = await connection.execute(
            sa.update(attempts)
            .where(attempts.c.job == job_id, attempts.c.number == number, attempts.c.outcome.is_(None))
            .values(outcome=outcome.value)
        )
        return changed.rowcount == 1

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

    async def mark_blobs_deleted(self, job_ids: Sequence[JobId]) -> None:
        async with self._write() as connection:
            await connection.execute(sa.update(jobs).where(jobs.c.id.in_(job_ids)).values(blobs_deleted=True))

    # -- users and keys --------------------------------------------------------------------------------
    async def any_user(self) -> bool:
        return bool(await self._fetch(sa.select(users.c.name).limit(1)))

    async def add_user(self, user: User) -> bool:
        try:
            async with self._write() as connection:
                await connection.execute(
                    sa.insert(users),
                    {
                        "name": user.name,
                        "role": user.role.value,
                        "email": user.email,
                        "created_at": user.created_at,
                    },
                )
        except IntegrityError:
            return False
        return True

    async def users(self) -> list[User]:
        return [_user(row) for row in await self._fetch(sa.select(users).order_by(users.c.name))]

    async def user(self, name: UserName) -> User | None:
        rows = await self._fetch(sa.select(users).where(users.c.name == name))
        return _user(rows[0]) if rows else None

    async def remove_user(self, name: UserName, now: float) -> bool:
        async with self._write() as connection:
            removed = await connection.execute(sa.delete(users).where(users.c.name == name))
            await connection.execute(
                sa.update(api_keys)
                .where(api_keys.c.user == name, api_keys.c.revoked_at.is_(None))
                .values(revoked_at=now)
            )
            return removed.rowcount == 1

    async def add_key(self, key: ApiKey) -> None:
        async with self._write() as connection:
            await connection.execute(
                sa.insert(api_keys),
                {
                    "id": key.id,
                    "user": key.user,
                    "digest": key.digest,
                    "created_at": key.created_at,
                    "expires_at": key.expires_at,
                    "revoked_at": key.revoked_at,
                },
            )

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
        async with self._write() as connection:
            changed = await connection.execute(
                sa.update(api_keys)
                .where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
                .values(revoked_at=now)
            )
            return changed.rowcount == 1


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
    }


def _job(row: sa.Row[Any]) -> Job:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    values["state"] = JobState(values["state"])
    values["env"] = msgspec.json.decode(values["env"])
    values["meta"] = msgspec.json.decode(values["meta"])
    values["id"] = JobId(values["id"])
    values["model"] = ModelId(values["model"])
    return Job(**values)


def _attempt(row: sa.Row[Any]) -> Attempt:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    if values["outcome"] is not None:
        values["outcome"] = AttemptOutcome(values["outcome"])
    return Attempt(**values)


def _user(row: sa.Row[Any]) -> User:
    return User(UserName(row.name), Role(row.role), row.created_at, row.email)


def _key(row: sa.Row[Any]) -> ApiKey:
    return ApiKey(row.id, UserName(row.user), row.digest, row.created_at, row.expires_at, row.revoked_at)
