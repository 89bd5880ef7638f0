"""The worker link: what gateway and node agent say to each other over one WebSocket.

The agent dials out and speaks first (:class:`Hello`). Every message about a job names job and attempt, so
that what arrives from an attempt that is no longer current can be dropped. Bytes of payloads and results
never travel here. Messages are MessagePack arrays with a tag; unknown tags are refused.
"""

from typing import Any, TypeVar

import msgspec

from edif.core.job import AttemptOutcome, Extras
from edif.core.limits import Padding

LINK_VERSION = 4
ON_PROCESSOR, ON_CUDA, ON_HOST = "cpu", "cuda", "host"
"""Kinds of devices; the last is for tests."""
UPLOAD_HEADER = "x-edif-upload"
"""Names one upload of a repository's metadata, so that two at the same time do not mix."""


class ModelSpec(msgspec.Struct, frozen=True):
    """How one model is loaded.

    Attributes:
        id: the repository id under which it is served.
        path: a local folder with config, tokenizer and weights; None loads ``id`` from the Hub.
        revision: the Hub revision, None for the default branch.
        dtype: a torch dtype name, e.g. ``float32``.
        task: the transformers pipeline task.
        threads: threads of the process that runs the forward pass.
        adapters: allowed PEFT adapters, repository id to local folder ("" loads it from the Hub).
        trust_remote_code: whether the repository's own Python code may be run while loading.
        device: where it computes: ``cpu``, ``cuda``, or ``cuda:N``.
    """

    id: str
    path: str | None = None
    revision: str | None = None
    dtype: str = "float32"
    task: str = "text-generation"
    threads: int = 1
    adapters: dict[str, str] = {}
    trust_remote_code: bool = False
    device: str = ON_PROCESSOR

    @property
    def on_device(self) -> bool:
        """Whether its weights lie in memory that all processes of a replica write to, so that one job at a time runs on them."""
        return self.device != ON_PROCESSOR


class CellLimits(msgspec.Struct, frozen=True):
    """What a sealed job's process may use.

    Attributes:
        memory_bytes: memory beyond the model's.
        scratch_bytes: its scratch folder.
        file_bytes: its largest file, the result included.
        cpu_s: processor time of all threads together.
    """

    memory_bytes: int
    scratch_bytes: int
    file_bytes: int
    cpu_s: int


class Merging(msgspec.Struct, frozen=True):
    """How traces of several jobs are merged into one forward pass.

    Attributes:
        rows: at most in one pass.
        tokens: at most in one pass, padding included.
        tolerance: by how much a value may differ from that of the job's own pass, in units in the last place of the
            model's dtype at the largest value of its kind. Where a model exceeds it, nothing is merged.
        padding: whether prompts of different length share passes, the shorter ones padded. Where the values of a row with padding
            exceed the tolerance, they do not.
        alone_at_once: passes that sealed jobs run by themselves at the same time.
        always: every trace that can be merged takes part in a shared pass, even in one of its own, and waits a while for others.
        wait_s: how long one of a sealed job then waits at most.
    """

    rows: int
    tokens: int
    tolerance: float
    alone_at_once: int
    always: bool = False
    wait_s: float = 0.5
    padding: Padding = Padding.AUTO


class AttemptRef(msgspec.Struct, frozen=True):
    job: str
    attempt: int


class Usage(msgspec.Struct, frozen=True):
    """What one attempt used. Seconds are wall time, ``tokens`` counts input tokens of all forward passes.

    Attributes:
        packed: its result is in the form that only clients of eDIF's own read.
        rounded_tensors: so many tensors are in its result as narrower floats, as was asked for.
        shared_passes: how many of its forward passes it shared with other jobs.
        shared_rows: rows of the largest of them, its own included.
        charged_s: what it is charged: ``run_s`` less the part of shared passes that others have to bear.
    """

    load_s: float = 0.0
    run_s: float = 0.0
    save_s: float = 0.0
    transfer_s: float = 0.0
    tokens: int = 0
    peak_memory_bytes: int = 0
    packed: bool = False
    rounded_tensors: int = 0
    shared_passes: int = 0
    shared_rows: int = 0
    charged_s: float = 0.0


class ReplicaReport(msgspec.Struct, frozen=True):
    """A replica that the agent already holds when it (re)joins."""

    replica: str
    model: str
    ready: bool


# -- agent to gateway ----------------------------------------------------------------------------------
class _ToGateway(msgspec.Struct, frozen=True, tag=True, array_like=True):
    pass


class Hello(_ToGateway, frozen=True):
    """Said first, and again after every reconnection."""

    version: int
    agent: str
    host: str
    pid: int
    python_version: str
    packages: dict[str, str]
    replicas: list[ReplicaReport]
    running: list[AttemptRef]


class ReplicaLoading(_ToGateway, frozen=True):
    replica: str
    stage: str


class ReplicaReady(_ToGateway, frozen=True):
    replica: str
    load_s: float
    weight_bytes: int


class ReplicaFailed(_ToGateway, frozen=True):
    """The replica could not load, or died; ``sentence`` is for the person who waits.

    Attributes:
        died: its process ended without a word of what stood against it.
    """

    replica: str
    sentence: str
    died: bool = False


class ReplicaStopped(_ToGateway, frozen=True):
    replica: str


class AttemptStarted(_ToGateway, frozen=True):
    job: str
    attempt: int


class AttemptLog(_ToGateway, frozen=True):
    job: str
    attempt: int
    text: str


class AttemptSaving(_ToGateway, frozen=True):
    """User code is done; its result, a large one, is being written."""

    job: str
    attempt: int


class AttemptEnded(_ToGateway, frozen=True):
    """The attempt is over. Repeated after a reconnection until :class:`OutcomeRecorded` is heard."""

    job: str
    attempt: int
    outcome: AttemptOutcome
    error_code: str | None
    sentence: str
    next_step: str
    usage: Usage
    result_bytes: int | None
    result_sha256: str | None
    kept_bytes: int | None = None


ToGateway = (
    Hello
    | ReplicaLoading
    | ReplicaReady
    | ReplicaFailed
    | ReplicaStopped
    | AttemptStarted
    | AttemptLog
    | AttemptSaving
    | AttemptEnded
)


# -- gateway to agent ----------------------------------------------------------------------------------
class KeptBlob(msgspec.Struct, frozen=True):
    """What a job keeps, for a trace that uses it; ``url`` is for an agent that does not share the blob folder."""

    job: str
    name: str
    url: str


class _ToAgent(msgspec.Struct, frozen=True, tag=True, array_like=True):
    pass


class Welcome(_ToAgent, frozen=True):
    """The answer to Hello: what of the agent's work is still wanted."""

    gateway: str
    store: str
    unwanted: list[AttemptRef]


class StartReplica(_ToAgent, frozen=True):
    """``cell`` is that of the jobs to come, so that their processes can be made ahead of need; None for shared ones.

    ``merging`` None: nothing will ever be merged on this replica.
    """

    replica: str
    model: ModelSpec
    cell: CellLimits | None
    merging: Merging | None


class StopReplica(_ToAgent, frozen=True):
    replica: str


class SendMetadata(_ToAgent, frozen=True):
    """Upload the model's metadata files for the Hub mirror."""

    model: ModelSpec


class RunAttempt(_ToAgent, frozen=True):
    """Run one attempt, sealed in its ``cell`` or, without one, in the process that jobs share.

    The URLs are paths below the gateway, signed, for an agent that does not share the blob folder. ``kept`` is in the
    order of ``extras.uses``. Without ``merge`` it shares no forward pass with others.
    """

    job: str
    attempt: int
    replica: str
    cell: CellLimits | None
    merge: bool
    compress: bool
    env: dict[str, Any]
    extras: Extras
    payload_url: str
    result_url: str
    kept_url: str
    kept: list[KeptBlob]
    time_limit_s: float
    result_limit_bytes: int
    expanded_limit_bytes: int
    log_limit_bytes: int


class CancelAttempt(_ToAgent, frozen=True):
    job: str
    attempt: int


class OutcomeRecorded(_ToAgent, frozen=True):
    job: str
    attempt: int


ToAgent = Welcome | StartReplica | StopReplica | SendMetadata | RunAttempt | CancelAttempt | OutcomeRecorded

_M = TypeVar("_M")

_encoder = msgspec.msgpack.Encoder()
_gateway_decoder: msgspec.msgpack.Decoder[ToGateway] = msgspec.msgpack.Decoder(ToGateway)
_agent_decoder: msgspec.msgpack.Decoder[ToAgent] = msgspec.msgpack.Decoder(ToAgent)


def encode(message: ToGateway | ToAgent) -> bytes:
    return _encoder.encode(message)


def decode_to_gateway(data: bytes) -> ToGateway:
    """Read a message from an agent.

    Raises:
        msgspec.DecodeError: malformed, of an unknown kind, or with a wrong field.
    """
    return _decode(_gateway_decoder, data)


def decode_to_agent(data: bytes) -> ToAgent:
    """Read a message from the gateway.

    Raises:
        msgspec.DecodeError: malformed, of an unknown kind, or with a wrong field.
    """
    return _decode(_agent_decoder, data)


def _decode(decoder: msgspec.msgpack.Decoder[_M], data: bytes) -> _M:
    try:
        return decoder.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:  # msgspec does not wrap these two
        raise msgspec.DecodeError(f"malformed: {error}") from error
