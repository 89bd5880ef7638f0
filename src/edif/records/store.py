"""The port to the record store. ``sql_store.py`` implements it; one contract suite runs on both database systems."""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from edif.core.audit import FABRIC, AuditRecord
from edif.core.ids import GroupName, JobId, UserId, UserName
from edif.core.job import Attempt, AttemptOutcome, Ending, Job, JobState
from edif.core.people import People
from edif.core.quota import Measure, Scope
from edif.core.usage import Held, UsageRow
from edif.core.users import ApiKey, Group, User


class JobStore(Protocol):
    """Jobs and their attempts."""

    async def add_job(self, job: Job, *, by: str = FABRIC, sender: UserId | None = None) -> Job:
        """Record a new job, or return the one that has its id, or its owner and ``client_key``, already.

        Args:
            sender: the user who must be there under the owner's name; None if the owner need not be a user.

        Raises:
            AuthRefused: that user has been removed; nothing was recorded.
        """
        ...

    async def job(self, job_id: JobId) -> Job | None: ...

    async def job_of_key(self, owner: UserName, client_key: str) -> Job | None:
        """The job that this owner sent with this key."""
        ...

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

        Returns False, and changes nothing, if the job has already ended, with other values or at another time, if it may not end
        like this from the state in which it is, or if the attempt is not current.
        """
        ...

    async def ask_cancel(self, job_id: JobId, *, by: str = FABRIC) -> bool:
        """Remember that the job is to be cancelled; False if it has already ended."""
        ...

    async def revoke_links(self, job: Job, *, by: str = FABRIC, times: int = 1) -> bool:
        """Count one more revocation of the links to this job's result, if none was counted since it was read; False if it has no
        result, or none any more.

        Args:
            times: how many more, for records that are behind the blobs.
        """
        ...

    async def current_attempt(self, job_id: JobId) -> Attempt | None:
        """The attempt without outcome, if there is one."""
        ...

    async def attempts(self, job_id: JobId) -> list[Attempt]: ...

    async def expired_blobs(self, ended_before: float, limit: int = 100) -> list[Job]:
        """Jobs that ended before then and whose blobs are not yet marked as deleted, oldest first."""
        ...

    async def blobs_of(self, owner: UserName) -> list[Job]:
        """The owner's jobs whose blobs are not yet marked as deleted."""
        ...

    async def revoked_results(self) -> list[Job]:
        """Jobs whose result is kept, and the links to it were revoked."""
        ...

    async def forget_jobs(self, ended_before: float, limit: int = 500) -> int:
        """Delete records of jobs that ended before then and have no blobs any more; how many were deleted."""
        ...

    async def without_blobs(self, job_ids: Collection[JobId]) -> set[JobId]:
        """Those of the ids that no job has, or one whose blobs are marked as deleted."""
        ...

    async def mark_blobs_deleted(self, deleted: Sequence[Job], *, by: str | None = None) -> set[JobId]:
        """Remember that these jobs have no blobs any more; which of them are so marked now.

        Not those to whose results links were revoked since they were read: these have other names by now.

        Args:
            by: whose own act it is, for the audit log; None if their time was over.
        """
        ...


class PeopleStore(Protocol):
    """Users, their keys and groups, and quotas. ``by`` is who did it, for the audit log."""

    async def people(self) -> People:
        """Everyone, as of one moment."""
        ...

    async def people_revision(self) -> int:
        """Grows with every change to what :meth:`people` returns."""
        ...

    async def any_user(self) -> bool: ...

    async def add_user(self, user: User, *, by: str = FABRIC) -> bool:
        """False if the name is taken."""
        ...

    async def change_user(self, user: User, *, by: str = FABRIC) -> bool:
        """Record what may change about the user of this name: role, email, group, weight, priority. False if there is none."""
        ...

    async def users(self) -> list[User]: ...

    async def user(self, name: UserName) -> User | None: ...

    async def on_record(self, name: UserName) -> bool:
        """Whether jobs, usage or keys are on record under this name, be there such a user or not."""
        ...

    async def remove_user(self, name: UserName, now: float, *, by: str = FABRIC) -> bool:
        """Remove a user, revoke the keys, and drop the user's quotas; jobs stay. False if there is no such user."""
        ...

    async def erase_user(self, name: UserName, pseudonym: UserName, *, by: str = FABRIC) -> None:
        """Have nothing on record name this person any more, whether the user is still there or was removed.

        Jobs and usage go under the pseudonym, without what the person's code said; keys are deleted. The audit log never
        had the name.
        """
        ...

    async def add_group(self, group: Group, *, by: str = FABRIC) -> bool:
        """False if the name is taken."""
        ...

    async def change_group(self, group: Group, *, by: str = FABRIC) -> bool:
        """Record the group's weight and priority. False if there is none of this name."""
        ...

    async def remove_group(self, name: GroupName, *, by: str = FABRIC) -> bool:
        """Remove a group and its quotas; its users are in none then. False if there is no such group."""
        ...

    async def set_quota(
        self, scope: Scope, name: str, measure: Measure, amount: float | None, *, by: str = FABRIC
    ) -> None:
        """Set a quota in place of an earlier one; None takes it away."""
        ...

    async def add_key(self, key: ApiKey, *, by: str = FABRIC) -> None: ...

    async def keys(self, user: UserName | None = None) -> list[ApiKey]: ...

    async def key_by_digest(self, digest: str) -> ApiKey | None: ...

    async def key_by_id(self, key_id: str) -> ApiKey | None: ...

    async def revoke_key(self, key_id: str, now: float, *, by: str = FABRIC) -> bool: ...


class SwitchStore(Protocol):
    """What an operator has switched, and is to stay so over restarts."""

    async def set_draining(self, draining: bool, *, by: str = FABRIC) -> None:
        """Remember that no jobs are to be begun, or that they are again. ``by`` is who did it, for the audit log."""
        ...

    async def draining(self) -> bool: ...


class AuditStore(Protocol):
    """The log of every act. Whatever else the store does appends its own entries, in the same transaction."""

    async def note(self, action: str, subject: str, *, by: str = FABRIC, **detail: Any) -> None:
        """Append an entry about something that the store itself does not do."""
        ...

    async def audit(
        self, *, after: int = 0, limit: int = 1000, about: str | None = None
    ) -> list[AuditRecord]:
        """Entries with numbers above ``after``, oldest first; only those with this subject or actor."""
        ...

    async def audit_end(self) -> tuple[int, str]:
        """Number and hash of the newest entry, as kept beside the log."""
        ...


class UsageStore(Protocol):
    """What was used, by day, user, group and model. A job that ends is counted in the same transaction."""

    async def usage(self, *, since: int = 0, before: int | None = None) -> list[UsageRow]:
        """Rows of these days (as ``core.quota.day_of`` counts them), oldest first."""
        ...

    async def stored_bytes(self) -> dict[UserName, int]:
        """Bytes of the results that have not been deleted, and of what their jobs keep, by owner."""
        ...

    async def held(self) -> Held:
        """What there is that a retention time will end."""
        ...


class RecordStore(JobStore, PeopleStore, SwitchStore, AuditStore, UsageStore, Protocol):
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
