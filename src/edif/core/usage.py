"""What was used, as reports and quotas count it."""

from dataclasses import dataclass

from edif.core.ids import GroupName, ModelId, UserName


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The jobs of one user, in one group, on one model, that ended on one day.

    Attributes:
        day: days since 1970-01-01, UTC.
        group: the user's group on that day; None without one.
        failed: those of ``jobs`` that ended without a result, cancelled ones included.
        seconds: accelerator seconds: wall time on a replica, also of jobs that failed.
        tokens: input tokens of all forward passes.
    """

    day: int
    user: UserName
    group: GroupName | None
    model: ModelId
    jobs: int
    failed: int
    seconds: float
    tokens: int
    result_bytes: int


@dataclass(frozen=True, slots=True)
class Held:
    """What the record store and the blob store hold now. Times are Unix seconds, None if there is nothing."""

    unfinished: int
    payload_bytes: int
    results: int
    result_bytes: int
    oldest_result: float | None
    records: int
    oldest_record: float | None
