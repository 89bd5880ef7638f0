"""Jobs and their attempts. The law of a job's states is that of :mod:`edif.core.job`, and is checked in the statements themselves
(``WHERE state IN ...``), so that two processes on one database cannot both win.
"""

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from edif.core import errors
from edif.core.audit import FABRIC
from edif.core.errors import AuthRefused
from edif.core.ids import JobId, ModelId, UserId, UserName
from edif.core.job import FINAL_STATES, Attempt, AttemptOutcome, Ending, Extras, Job, JobState, states_before
from edif.records import audit_tail, usage_records
from edif.records.access import Access
from edif.records.schema import attempts, jobs, stored_results, users

_IDS_PER_QUERY = 500

_job_columns = [column for column in jobs.c if column.name != "blobs_deleted"]
_final_values = [state.value for state in FINAL_STATES]


def _may_become(new: JobState) -> sa.ColumnElement[bool]:
    """The job is in a state from which it may enter this one."""
    return jobs.c.state.in_([state.value for state in states_before(new)])


_extras = msgspec.json.Decoder(Extras)

# Built once: composing a statement costs more than the database needs to run it.
_insert_job = sa.insert(jobs)
_insert_job_of_user = (
    sa.insert(jobs)
    .from_select(
        [column.name for column in jobs.c],
        sa.select(*(sa.bindparam(f"new_{column.name}", type_=column.type) for column in jobs.c)).where(
            sa.exists().where(users.c.name == sa.bindparam("new_owner"), users.c.id == sa.bindparam("sender"))
        ),
    )
    .execution_options(preserve_rowcount=True)
)
_insert_attempt = sa.insert(attempts)
_select_job = sa.select(*_job_columns).where(jobs.c.id == sa.bindparam("job_id"))
_start_job = (
    sa.update(jobs)
    .where(jobs.c.id == sa.bindparam("job_id"), _may_become(JobState.RUNNING))
    .values(state=JobState.RUNNING.value, attempts=sa.bindparam("number"))
)
_requeue_job = (
    sa.update(jobs)
    .where(jobs.c.id == sa.bindparam("job_id"), _may_become(JobState.QUEUED))
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
_end_job = {
    state: sa.update(jobs)
    .where(
        jobs.c.id == sa.bindparam("job_id"),
        _may_become(state),
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
                "kept_bytes",
            )
        }
    )
    for state in FINAL_STATES
}
_revoke_links = (
    sa.update(jobs)
    .where(
        jobs.c.id == sa.bindparam("job_id"),
        jobs.c.state == JobState.COMPLETED.value,
        jobs.c.blobs_deleted.is_(False),
        jobs.c.revocations == sa.bindparam("known"),
    )
    .values(revocations=sa.bindparam("known") + sa.bindparam("times"))
)
# A result that was given another name meanwhile was not deleted under it.
_mark_deleted = (
    sa.update(jobs)
    .where(
        jobs.c.id == sa.bindparam("job_id"),
        jobs.c.blobs_deleted.is_(False),
        jobs.c.revocations == sa.bindparam("known"),
    )
    .values(blobs_deleted=True)
)


class JobRecords(Access):
    """See :class:`edif.records.store.JobStore`."""

    async def add_job(self, job: Job, *, by: str = FABRIC, sender: UserId | None = None) -> Job:
        values = _job_values(job)
        # Who sent it is looked for by the statement itself: no second one for each job, and no erasure in between.
        insert, parameters = (
            (_insert_job, values)
            if sender is None
            else (
                _insert_job_of_user,
                {**{f"new_{name}": value for name, value in values.items()}, "sender": sender},
            )
        )

        def work(connection: sa.Connection) -> bool:
            if connection.execute(insert, parameters).rowcount == 0:
                return False
            audit_tail.append(
                connection, "job.accepted", job.id, by, model=job.model, payload_bytes=job.payload_bytes
            )
            return True

        try:
            added = await self._write(work)
        except IntegrityError:
            known = await self._same(job)
            if known is None:
                raise
            return known
        if added:
            return job
        known = await self._same(job)  # if only the answer was lost, then before the user was removed
        if known is None:
            raise AuthRefused(
                errors.KEY_REVOKED,
                "The user of this API key was removed while the request came in; nothing was recorded.",
            )
        return known

    async def _same(self, job: Job) -> Job | None:
        """The job with its id, or with its owner and ``client_key``, as it is on record."""
        same = jobs.c.id == job.id
        if job.client_key is not None:
            same |= sa.and_(jobs.c.owner == job.owner, jobs.c.client_key == job.client_key)
        rows = await self._fetch(sa.select(*_job_columns).where(same))
        return _job(rows[0]) if rows else None

    async def job(self, job_id: JobId) -> Job | None:
        rows = await self._fetch(_select_job, {"job_id": job_id})
        return _job(rows[0]) if rows else None

    async def job_of_key(self, owner: UserName, client_key: str) -> Job | None:
        same = sa.and_(jobs.c.owner == owner, jobs.c.client_key == client_key)
        rows = await self._fetch(sa.select(*_job_columns).where(same))
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
                return _was_begun(connection, attempt)
            connection.execute(_insert_attempt, _attempt_values(attempt))
            return True

        return await self._write(work)

    async def lose_attempt(self, job_id: JobId, number: int) -> bool:
        def work(connection: sa.Connection) -> bool:
            if not _end_attempt(connection, job_id, number, AttemptOutcome.LOST):
                return _was_lost(connection, job_id, number)
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
        brought_by = None if attempt is None or outcome is None else (attempt, outcome)
        values = {
            "state": ending.state.value,
            "ended_at": now,
            "error_code": ending.error_code,
            "description": ending.description.replace("\0", "\N{REPLACEMENT CHARACTER}"),
            "meta": _json(ending.meta),
            "result_bytes": ending.result_bytes,
            "result_sha256": ending.result_sha256,
            "kept_bytes": ending.kept_bytes,
        }
        parameters = {f"new_{name}": value for name, value in values.items()}
        parameters |= {"job_id": job_id, "by_attempt": -1 if attempt is None else attempt}

        def work(connection: sa.Connection) -> bool:
            if brought_by is not None and not _end_attempt(connection, job_id, *brought_by):
                return _was_ended(connection, job_id, values, brought_by)
            if connection.execute(_end_job[ending.state], parameters).rowcount != 1:
                return _was_ended(connection, job_id, values, brought_by)
            if attempt is None:
                connection.execute(_abandon_attempt, {"job_id": job_id})
            usage_records.add(connection, job_id, ending, now)
            reason = {} if ending.error_code is None else {"error": ending.error_code}
            audit_tail.append(connection, f"job.{ending.state.value}", job_id, FABRIC, **reason)
            return True

        return await self._write(work)

    async def ask_cancel(self, job_id: JobId, *, by: str = FABRIC) -> bool:
        statement = (
            sa.update(jobs)
            .where(jobs.c.id == job_id, jobs.c.state.not_in(_final_values))
            .values(cancel_asked=True)
        )

        def work(connection: sa.Connection) -> bool:
            asked = connection.execute(statement).rowcount == 1
            if asked:
                audit_tail.append(connection, "job.cancel_asked", job_id, by)
            return asked

        return await self._write(work)

    async def revoke_links(self, job: Job, *, by: str = FABRIC, times: int = 1) -> bool:
        values = {"job_id": job.id, "known": job.revocations, "times": times}

        def work(connection: sa.Connection) -> bool:
            changed = connection.execute(_revoke_links, values)
            if changed.rowcount != 1:
                return _was_revoked(connection, job)
            audit_tail.append(connection, "result.links_revoked", job.id, by)
            return True

        return await self._write(work)

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

    async def expired_blobs(self, ended_before: float, limit: int = 100) -> list[Job]:
        rows = await self._fetch(
            sa.select(*_job_columns)
            .where(jobs.c.ended_at < ended_before, jobs.c.blobs_deleted.is_(False))
            .order_by(jobs.c.ended_at)
            .limit(limit)
        )
        return [_job(row) for row in rows]

    async def blobs_of(self, owner: UserName) -> list[Job]:
        statement = sa.select(*_job_columns).where(jobs.c.owner == owner, jobs.c.blobs_deleted.is_(False))
        return [_job(row) for row in await self._fetch(statement)]

    async def revoked_results(self) -> list[Job]:
        statement = sa.select(*_job_columns).where(stored_results, jobs.c.revocations > 0)
        return [_job(row) for row in await self._fetch(statement)]

    async def forget_jobs(self, ended_before: float, limit: int = 500) -> int:
        def work(connection: sa.Connection) -> int:
            old = sa.select(jobs.c.id).where(jobs.c.ended_at < ended_before, jobs.c.blobs_deleted.is_(True))
            ids = [row.id for row in connection.execute(old.order_by(jobs.c.ended_at).limit(limit))]
            connection.execute(sa.delete(attempts).where(attempts.c.job.in_(ids)))
            connection.execute(sa.delete(jobs).where(jobs.c.id.in_(ids)))
            return len(ids)

        return await self._write(work)

    async def without_blobs(self, job_ids: Collection[JobId]) -> set[JobId]:
        without = set(job_ids)
        asked = list(without)
        for start in range(0, len(asked), _IDS_PER_QUERY):
            some = asked[start : start + _IDS_PER_QUERY]
            with_some = sa.select(jobs.c.id).where(jobs.c.id.in_(some), jobs.c.blobs_deleted.is_(False))
            for row in await self._fetch(with_some):
                without.discard(JobId(row.id))
        return without

    async def mark_blobs_deleted(self, deleted: Sequence[Job], *, by: str | None = None) -> set[JobId]:
        def work(connection: sa.Connection) -> set[JobId]:
            for job in deleted:
                changed = connection.execute(_mark_deleted, {"job_id": job.id, "known": job.revocations})
                if changed.rowcount == 1 and by is not None:
                    audit_tail.append(connection, "result.deleted", job.id, by)
            return {job.id for job in deleted if _is_marked(connection, job)}

        return await self._write(work)


def _end_attempt(connection: sa.Connection, job_id: JobId, number: int, outcome: AttemptOutcome) -> bool:
    """Give the attempt its outcome; False if it has one already or does not exist."""
    values = {"job_id": job_id, "attempt_number": number, "new_outcome": outcome.value}
    return connection.execute(_close_attempt, values).rowcount == 1


def _was_begun(connection: sa.Connection, attempt: Attempt) -> bool:
    """Whether exactly this attempt is on record, and its job's current one."""
    statement = (
        sa.select(attempts.c.number)
        .join(jobs, jobs.c.id == attempts.c.job)
        .where(
            *(
                attempts.c[name] == value
                for name, value in _attempt_values(attempt).items()
                if name != "outcome"
            ),
            attempts.c.outcome.is_(None),
            jobs.c.state == JobState.RUNNING.value,
            jobs.c.attempts == attempt.number,
        )
    )
    return connection.execute(statement).first() is not None


def _was_lost(connection: sa.Connection, job_id: JobId, number: int) -> bool:
    """Whether the attempt was lost, and its job has waited again ever since."""
    statement = (
        sa.select(attempts.c.number)
        .join(jobs, jobs.c.id == attempts.c.job)
        .where(
            attempts.c.job == job_id,
            attempts.c.number == number,
            attempts.c.outcome == AttemptOutcome.LOST.value,
            jobs.c.state == JobState.QUEUED.value,
            jobs.c.attempts == number,
        )
    )
    return connection.execute(statement).first() is not None


def _was_ended(
    connection: sa.Connection,
    job_id: JobId,
    ending: dict[str, Any],
    attempt: tuple[int, AttemptOutcome] | None,
) -> bool:
    """Whether the job ended with exactly these values, and by this attempt if one brought them."""
    statement = sa.select(jobs.c.id).where(
        jobs.c.id == job_id,
        *(jobs.c[name].is_not_distinct_from(value) for name, value in ending.items()),
    )
    if attempt is not None:
        number, outcome = attempt
        statement = statement.join(attempts, attempts.c.job == jobs.c.id).where(
            jobs.c.attempts == number, attempts.c.number == number, attempts.c.outcome == outcome.value
        )
    return connection.execute(statement).first() is not None


def _was_revoked(connection: sa.Connection, job: Job) -> bool:
    """Whether links to its result were revoked since it was read, and it is still kept."""
    statement = sa.select(jobs.c.id).where(
        jobs.c.id == job.id, jobs.c.revocations > job.revocations, jobs.c.blobs_deleted.is_(False)
    )
    return connection.execute(statement).first() is not None


def _is_marked(connection: sa.Connection, job: Job) -> bool:
    """Whether its blobs are marked as deleted, under the names that they have by this record of it."""
    statement = sa.select(jobs.c.id).where(
        jobs.c.id == job.id, jobs.c.revocations == job.revocations, jobs.c.blobs_deleted.is_(True)
    )
    return connection.execute(statement).first() is not None


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
        "extras": _json(job.extras),
        "kept_bytes": job.kept_bytes,
        "revocations": job.revocations,
    }


def _job(row: sa.Row[Any]) -> Job:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    values["state"] = JobState(values["state"])
    values["env"] = msgspec.json.decode(values["env"])
    values["meta"] = msgspec.json.decode(values["meta"])
    values["extras"] = _extras.decode(values["extras"])
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
