"""What happened (events, in the past tense) and what is to be done (actions, in the imperative)."""

from dataclasses import dataclass

from edif.core.errors import ErrorCode
from edif.core.ids import ANONYMOUS, AgentId, JobId, ModelId, ReplicaId


@dataclass(frozen=True, slots=True)
class Claim:
    """Who a job belongs to and what they are entitled to; the newest claim of a user or a group is the one that holds.

    Without users everything is one user's, and jobs run in the order in which they came.

    Attributes:
        user_weight: the user's share of what the group gets, in relation to the group's other users.
        group_weight: the group's share of the model, in relation to the other groups. Weights are above zero.
        priority: the class; a job of a higher one always goes first.
        user_most_running: how many of the user's jobs may run at once, on all models together; None is no limit.
        group_most_running: the same for the group.
    """

    user: str = ANONYMOUS
    group: str = "everyone"
    user_weight: float = 1.0
    group_weight: float = 1.0
    priority: int = 0
    user_most_running: int | None = None
    group_most_running: int | None = None


ANYONE = Claim()


# -- events --------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class JobQueued:
    """A job was accepted, or found queued when the gateway started. ``attempts`` is how often it was tried."""

    job: JobId
    model: ModelId
    attempts: int = 0
    claim: Claim = ANYONE


@dataclass(frozen=True, slots=True)
class AttemptRemembered:
    """The record store says that this attempt was running when the gateway started."""

    job: JobId
    model: ModelId
    attempt: int
    agent: AgentId
    replica: ReplicaId
    claim: Claim = ANYONE


@dataclass(frozen=True, slots=True)
class AttemptOver:
    """The attempt ended and its outcome is recorded: the replica is free. It used ``cost_s`` accelerator seconds."""

    job: JobId
    attempt: int
    cost_s: float = 0.0


@dataclass(frozen=True, slots=True)
class AttemptLost:
    """The attempt will not end any more: its process died, as ``sentence`` tells. Nobody is charged for it."""

    job: JobId
    attempt: int
    sentence: str = ""


@dataclass(frozen=True, slots=True)
class AttemptRefused:
    """The record store did not let the attempt begin: the job is no longer queued there."""

    job: JobId


@dataclass(frozen=True, slots=True)
class CancelAsked:
    job: JobId


@dataclass(frozen=True, slots=True)
class HeldReplica:
    replica: ReplicaId
    model: ModelId
    ready: bool


@dataclass(frozen=True, slots=True)
class AgentJoined:
    """An agent said hello, for the first time or again. ``running`` holds (job, attempt) of its work."""

    agent: AgentId
    replicas: tuple[HeldReplica, ...] = ()
    running: frozenset[tuple[JobId, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class AgentAway:
    """The link to the agent broke; its work goes on until its lease ends."""

    agent: AgentId


@dataclass(frozen=True, slots=True)
class AgentLost:
    """The agent did not come back within its lease."""

    agent: AgentId


@dataclass(frozen=True, slots=True)
class ReplicaBecameReady:
    replica: ReplicaId


@dataclass(frozen=True, slots=True)
class ReplicaFailed:
    """A replica could not load, or died. ``sentence`` is for the people whose jobs wait for it.

    With ``died`` its process ended and gave no reason: something may have killed it, and the next one may load.
    """

    replica: ReplicaId
    sentence: str
    died: bool = False


@dataclass(frozen=True, slots=True)
class ReplicaStopped:
    """A replica ended because it was told to."""

    replica: ReplicaId


@dataclass(frozen=True, slots=True)
class DeployAsked:
    model: ModelId


@dataclass(frozen=True, slots=True)
class EvictAsked:
    model: ModelId


@dataclass(frozen=True, slots=True)
class SlotsChanged:
    """From now on each replica of the model takes this many jobs at once; what runs, runs on."""

    model: ModelId
    slots: int


@dataclass(frozen=True, slots=True)
class ClaimChanged:
    """An operator changed what a user or a group is entitled to. The user's waiting jobs go to its group and class."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class DrainAsked:
    """From now on nothing begins and no replica is started: what runs, ends; what waits, waits."""


@dataclass(frozen=True, slots=True)
class DrainEnded:
    """What waits may begin again."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed. Told every second or so, it lets jobs age while nothing else happens."""


Event = (
    JobQueued
    | AttemptRemembered
    | AttemptOver
    | AttemptLost
    | AttemptRefused
    | CancelAsked
    | AgentJoined
    | AgentAway
    | AgentLost
    | ReplicaBecameReady
    | ReplicaFailed
    | ReplicaStopped
    | DeployAsked
    | EvictAsked
    | SlotsChanged
    | ClaimChanged
    | DrainAsked
    | DrainEnded
    | Tick
)


# -- actions -------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class StartReplica:
    agent: AgentId
    replica: ReplicaId
    model: ModelId


@dataclass(frozen=True, slots=True)
class StopReplica:
    agent: AgentId
    replica: ReplicaId


@dataclass(frozen=True, slots=True)
class BeginAttempt:
    job: JobId
    attempt: int
    agent: AgentId
    replica: ReplicaId


@dataclass(frozen=True, slots=True)
class RequeueJob:
    """Record that the attempt was lost; the job waits for its next try."""

    job: JobId
    attempt: int


@dataclass(frozen=True, slots=True)
class StopAttempt:
    job: JobId
    attempt: int
    agent: AgentId


@dataclass(frozen=True, slots=True)
class FailJob:
    """End the job with this error. ``attempt`` is set when a lost attempt was its last."""

    job: JobId
    error: ErrorCode
    sentence: str
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class CancelJob:
    """End a job that never began, or whose attempt was lost, as cancelled."""

    job: JobId
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class TellWaiting:
    """Tell the job's client that it waits, for a replica that is up or not.

    ``position`` (1 is next) is the worst that it can be: how many wait. Where more than one user waits, its true place
    depends on the shares, and :class:`TellPositions` follows.
    """

    job: JobId
    position: int
    loading: bool


@dataclass(frozen=True, slots=True)
class TellPositions:
    """The positions in this model's queue moved."""

    model: ModelId


Action = (
    StartReplica
    | StopReplica
    | BeginAttempt
    | RequeueJob
    | StopAttempt
    | FailJob
    | CancelJob
    | TellWaiting
    | TellPositions
)
