"""The port to the record store. ``sql_store.py`` implements it; one contract suite runs on both database systems."""

from collections.abc import Collection, Sequence
from typing import Protocol

from edif.core.ids import JobId, UserName
from edif.core.job import Attempt, AttemptOutcome, Ending, Job, JobState
from edif.core.users import ApiKey, User


class JobStore(Protocol):
    """Jobs and their attempts."""

    async def add_job(self, job: Job) -> Job:
        """Record a new job, or return the one that has its id, or its owner and ``client_key``, already."""
        ...

    async def job(self, job_id: JobId) -> Job | None: ...

    async def jobs(
        self, *, owner: UserName | None = None, states: Sequence[JobState] = (), limit: int = 100
    ) -> list[Job]:
        """Jobs, newest first."""
        ...

    async def unfinished_jobs(self) -> list[Job]:
        """Every job that has not ended, oldest first."""
        ...

    async def begin_attempt(self, attempt: Attempt) -> bool:
        """QUEUED -> RUNNING under a new attempt; False if the job is not queued any more.

        An attempt is the same one, asked for again, if job, number, agent, replica and start are the same.
        """
        ...

    async def lose_attempt(self, job_id: JobId, number: int) -> bool:
        """RUNNING -> QUEUED: the current attempt was lost; False if ``number`` is not the current one, nor was until now."""
        ...

    async def end_job(
        self,
        job_id: JobId,
        ending: Ending,
        *,
        now: float,
        attempt: int | None,
        outcome: AttemptOutcome | None,
    ) -> bool:
        """End a job, once. ``attempt`` is the attempt that brings the ending, None when none does.

        An attempt that is still open when its job ends without it, is lost.

        Returns False, and changes nothing, if the job has already ended, with other values or at another time, or the
        attempt is not current.
        """
        ...

    async def ask_cancel(self, job_id: JobId) -> bool:
        """Remember that the job is to be cancelled; False if it has already ended."""
        ...

    async def current_attempt(self, job_id: JobId) -> Attempt | None:
        """The attempt without outcome, if there is one."""
        ...

    async def attempts(self, job_id: JobId) -> list[Attempt]: ...

    async def expired_blobs(self, ended_before: float, limit: int = 100) -> list[JobId]:
        """Jobs that ended before then and whose blobs are not yet marked as deleted."""
        ...

    async def unknown_jobs(self, job_ids: Collection[JobId]) -> set[JobId]:
        """Those of the ids that no job has."""
        ...

    async def mark_blobs_deleted(self, job_ids: Sequence[JobId]) -> None: ...


class PeopleStore(Protocol):
    """Users and their keys."""

    async def any_user(self) -> bool: ...

    async def add_user(self, user: User) -> bool:
        """False if the name is taken."""
        ...

    async def users(self) -> list[User]: ...

    async def user(self, name: UserName) -> User | None: ...

    async def remove_user(self, name: UserName, now: float) -> bool:
        """Remove a user and revoke the keys; jobs stay. False if there is no such user."""
        ...

    async def add_key(self, key: ApiKey) -> None: ...

    async def keys(self, user: UserName | None = None) -> list[ApiKey]: ...

    async def key_by_digest(self, digest: str) -> ApiKey | None: ...

    async def key_by_id(self, key_id: str) -> ApiKey | None: ...

    async def revoke_key(self, key_id: str, now: float) -> bool: ...


class RecordStore(JobStore, PeopleStore, Protocol):
    """Durable facts. When a method that writes has returned, its effect survives a crash.

    Every method can raise :class:`edif.core.errors.StoreUnavailable`. A write that is then in doubt may be asked for again
    with the same arguments: it answers as if the first call had been heard, and nothing is recorded twice.
    """

    async def close(self) -> None: ...

    async def check(self) -> None:
        """Return if the store can be written now.

        Raises:
            LeadLost: another gateway leads the fabric.
        """
        ...
