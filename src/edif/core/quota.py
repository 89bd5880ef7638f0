"""Quotas: what a user or a group may use, what is used, and when a used-up quota frees. Days and months are UTC."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum


class Measure(StrEnum):
    """What is counted. Seconds are accelerator seconds: wall time of jobs on a replica."""

    QUEUED_JOBS = "queued_jobs"
    RUNNING_JOBS = "running_jobs"
    SECONDS_PER_DAY = "seconds_per_day"
    SECONDS_PER_MONTH = "seconds_per_month"
    RESULT_BYTES_PER_DAY = "result_bytes_per_day"
    RESULT_BYTES_PER_MONTH = "result_bytes_per_month"
    STORED_BYTES = "stored_bytes"

    @property
    def in_bytes(self) -> bool:
        return "bytes" in self.value


SPENT = (
    Measure.SECONDS_PER_DAY,
    Measure.SECONDS_PER_MONTH,
    Measure.RESULT_BYTES_PER_DAY,
    Measure.RESULT_BYTES_PER_MONTH,
)
"""Those that are spent by running jobs. Used up, they hold back jobs that wait, and refuse new ones."""
HELD = (Measure.QUEUED_JOBS, Measure.STORED_BYTES)
"""Those that are given back when a job ends or its data is deleted. Used up, they refuse new jobs; how many jobs run
at once is no reason to refuse one: it waits."""


class Scope(StrEnum):
    """Whom a quota binds: one user, a group as a whole, or each user who has none of their own."""

    USER = "user"
    GROUP = "group"
    EACH_USER = "each_user"


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit. ``name`` is the user's or group's, empty for :attr:`Scope.EACH_USER`."""

    scope: Scope
    name: str
    measure: Measure
    amount: float


@dataclass(frozen=True, slots=True)
class UsedUp:
    """A quota that leaves no room.

    Attributes:
        used: how much is used now, in the measure's unit.
        frees_at: Unix seconds at which a day or month ends; None for what is given back by jobs.
    """

    quota: Quota
    used: float
    frees_at: float | None


def day_of(unix_s: float) -> int:
    """Days since 1970-01-01, UTC."""
    return int(unix_s // 86_400)


def month_begins(unix_s: float) -> int:
    """The day, as :func:`day_of` counts, on which this moment's month begins."""
    moment = datetime.fromtimestamp(unix_s, UTC)
    return day_of(moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp())


def frees_at(measure: Measure, unix_s: float) -> float | None:
    """When the day or month that the measure counts in is over."""
    moment = datetime.fromtimestamp(unix_s, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if measure in (Measure.SECONDS_PER_DAY, Measure.RESULT_BYTES_PER_DAY):
        return (moment + timedelta(days=1)).timestamp()
    if measure in (Measure.SECONDS_PER_MONTH, Measure.RESULT_BYTES_PER_MONTH):
        return (moment.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp()
    return None


def first_used_up(
    quotas: Mapping[Measure, Quota], used: Mapping[Measure, float], measures: tuple[Measure, ...], now: float
) -> UsedUp | None:
    """The first of ``measures`` that leaves no room; what has no quota is never used up."""
    for measure in measures:
        quota = quotas.get(measure)
        if quota is not None and used.get(measure, 0.0) >= quota.amount:
            return UsedUp(quota, used.get(measure, 0.0), frees_at(measure, now))
    return None
