"""A job, its attempts, and the laws of both.

A *job* is what a user handed in; it ends exactly once. An *attempt* is one try to run it on one replica;
user code may therefore run more than once, but only one attempt's outcome becomes the job's.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from edif.core.ids import JobId, ModelId, UserName

MAX_ATTEMPTS = 3
"""Tries per job. A job is tried again when the fabric failed, never when the user's code did."""


class JobState(StrEnum):
    """Where a job durably is. What a client is told in between is a :class:`ClientStatus`."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in FINAL_STATES


FINAL_STATES = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})

LEGAL_TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    # RUNNING -> QUEUED is a retry after the attempt was lost.
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}),
    JobState.COMPLETED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


def may_become(current: JobState, new: JobState) -> bool:
    """Whether the law allows a job in state ``current`` to enter ``new``."""
    return new in LEGAL_TRANSITIONS[current]


class ClientStatus(StrEnum):
    """The statuses of the nnsight client protocol, in the order in which a job meets them."""

    RECEIVED = "RECEIVED"
    QUEUED = "QUEUED"
    PROVISIONING = "PROVISIONING"
    DEPLOYING = "DEPLOYING"
    DISPATCHED = "DISPATCHED"
    RUNNING = "RUNNING"
    LOG = "LOG"
    COMPLETED = "COMPLETED"
    ERROR = "ERROR"


class AttemptOutcome(StrEnum):
    """How one try ended. LOST is the fabric's failure and the only one that is tried again."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Job:
    """One accepted request, as the record store holds it. Times are Unix seconds, sizes bytes."""

    id: JobId
    owner: UserName
    model: ModelId
    model_key: str
    compress: bool
    env: dict[str, Any]
    payload_bytes: int
    created_at: float
    state: JobState = JobState.QUEUED
    client_key: str | None = None
    attempts: int = 0
    cancel_asked: bool = False
    ended_at: float | None = None
    error_code: str | None = None
    description: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    result_bytes: int | None = None
    result_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to run a job. While ``outcome`` is None it is the job's current attempt."""

    job: JobId
    number: int
    agent: str
    replica: str
    started_at: float
    lease_until: float
    outcome: AttemptOutcome | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """What is recorded when a job ends.

    Attributes:
        seconds: accelerator seconds that its user is charged: those of the attempt that ended it.
        tokens: input tokens of all its forward passes.
    """

    state: JobState
    description: str = ""
    error_code: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    result_bytes: int | None = None
    result_sha256: str | None = None
    seconds: float = 0.0
    tokens: int = 0
