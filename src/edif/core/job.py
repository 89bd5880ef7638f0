"""A job, its attempts, and the laws of both.

A *job* is what a user handed in; it ends exactly once. An *attempt* is one try to run it on one replica;
user code may therefore run more than once, but only one attempt's outcome becomes the job's.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec

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


def states_before(new: JobState) -> tuple[JobState, ...]:
    """Those from which the law lets a job enter ``new``: whoever records that has to make sure that it is in one of them."""
    return tuple(state for state in JobState if new in LEGAL_TRANSITIONS[state])


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


UsedJob = Annotated[str, msgspec.Meta(max_length=100)]
"""The id of a job, as a client names it."""
MAX_USED = 16
"""Of so many jobs one trace may use kept values."""


Rounding = Literal["float16", "bfloat16", "float32"]
"""The dtypes to which wider floats can be rounded."""


@dataclass(frozen=True, slots=True)
class Extras:
    """What a client of eDIF's own asks for. The stock client asks for none of it.

    Attributes:
        packed: it reads packed results, and so may be sent one.
        rounding: the dtype to which wider floats are rounded before they travel; None leaves them as they are.
        link_bytes_per_s: how fast its last downloads were; 0 if it has had none.
        uses: the jobs of whose kept values the trace makes use.
        merge: its traces may share forward passes with those of others.
    """

    packed: bool = False
    rounding: Rounding | None = None
    link_bytes_per_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    uses: Annotated[tuple[UsedJob, ...], msgspec.Meta(max_length=MAX_USED)] = ()
    merge: bool = True


@dataclass(frozen=True, slots=True)
class Job:
    """One accepted request, as the record store holds it. Times are Unix seconds, sizes bytes.

    Attributes:
        kept_bytes: of the values that it keeps on the fabric; None if it keeps none.
        revocations: how often the links to its result were revoked.
    """

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
    extras: Extras = Extras()
    kept_bytes: int | None = None
    revocations: int = 0


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
        seconds: accelerator seconds that its user is charged: those of the attempt that ended it, and of shared passes its part.
        tokens: input tokens of all its forward passes.
    """

    state: JobState
    description: str = ""
    error_code: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    result_bytes: int | None = None
    result_sha256: str | None = None
    kept_bytes: int | None = None
    seconds: float = 0.0
    tokens: int = 0


def stored_bytes(of: Job | Ending) -> int:
    """What a job has in the blob store when it has ended: its result, and what it keeps."""
    return (of.result_bytes or 0) + (of.kept_bytes or 0)
