"""The jobs that have not ended, as this gateway sees them: their last status, their clocks, who listens, what they use."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from edif.core import errors
from edif.core.errors import EdifError
from edif.core.ids import GroupName, JobId, UserName
from edif.core.job import AttemptOutcome, ClientStatus, Ending, Job, JobState, stored_bytes
from edif.core.quota import day_of
from edif.gateway.ledger import Ledger
from edif.gateway.subscribers import Subscriber
from edif.wire import link
from edif.wire.client_protocol import StatusFrame


class Wait(NamedTuple):
    """Why a job has not begun.

    Attributes:
        position: its place in the queue; 1 is next.
        in_s: seconds until it is expected to begin; None if that cannot be told.
        loading: no replica of the model is up.
        any_agent: there is a node that could bring one up.
        draining: the fabric begins no jobs.
        held_back: the sentence of a used-up quota, for a job that has no place in the queue for its sake.
        crowded: the sentence of a quota of running jobs, for a job that has one.
    """

    position: int
    in_s: float | None = None
    loading: bool = False
    any_agent: bool = True
    draining: bool = False
    held_back: str | None = None
    crowded: str | None = None

    @property
    def status(self) -> ClientStatus:
        if self.loading:
            return ClientStatus.DEPLOYING if self.any_agent else ClientStatus.PROVISIONING
        return ClientStatus.QUEUED

    def sentence(self, model: str) -> str:
        if self.held_back is not None:
            return f"{self.held_back} This job waits until then."
        if self.draining:
            return f"The fabric begins no jobs for a while; this one is kept, at position {self.position} in the queue."
        if self.loading:
            awaited = (
                "The model is being brought up" if self.any_agent else "Waiting for a node to join the fabric"
            )
            return f"{awaited}; position {self.position} in the queue."
        reason = f"{self.crowded} " if self.crowded is not None else ""
        place = f"{reason}Position {self.position} in the queue of {model}"
        return f"{place}." if self.in_s is None else f"{place}; expected to begin in {_about(self.in_s)}."


def _about(seconds: float) -> str:
    """A length of time as roughly as it is known: so it need not be told anew with every second."""
    for unit, name, step in ((3600.0, "hours", 1), (60.0, "minutes", 1), (1.0, "seconds", 5)):
        if seconds >= 1.5 * unit * step:
            return f"about {max(round(seconds / unit / step) * step, step)} {name}"
    return "a few seconds"


@dataclass(slots=True)
class ActiveJob:
    """The clocks are monotonic seconds.

    Attributes:
        job: as last recorded.
        frame: the last status that was told.
        subscriber: the socket that listens, if one does.
        base_url: under which the client that sent it reaches the gateway.
        received: when the whole request had come.
        load_s: how long it has waited for its model to be brought up.
        began: when its present attempt began to run.
    """

    job: Job
    frame: StatusFrame
    subscriber: Subscriber | None = None
    base_url: str = ""
    received: float = field(default_factory=time.monotonic)
    load_s: float = 0.0
    began: float | None = None

    def tell(self, status: ClientStatus, description: str) -> None:
        """Enter a status, and tell it to whoever listens."""
        self.frame = StatusFrame(self.job.id, status, description)
        if self.subscriber is not None:
            self.subscriber.tell(self.frame)

    def note(self, text: str) -> None:
        """A LOG line: shown to whoever listens, and no status of the job."""
        if self.subscriber is not None:
            self.subscriber.tell(StatusFrame(self.job.id, ClientStatus.LOG, text))

    def tell_waiting(self, wait: Wait) -> None:
        """Tell the place in the queue and what is waited for, if that is news."""
        sentence = wait.sentence(self.job.model)
        if (self.frame.status, self.frame.description) != (wait.status, sentence):
            self.tell(wait.status, sentence)

    def tell_cancellable(self, status: ClientStatus) -> None:
        self.tell(status, f"To cancel: edif jobs cancel {self.job.id}")

    def note_load(self) -> None:
        """The model is up: what was waited until now, was waited for it."""
        self.load_s = time.monotonic() - self.received

    def cost(self, usage: link.Usage) -> dict[str, Any]:
        """What the client is told of the job's cost, as ``meta``. Seconds are wall time."""
        now = time.monotonic()
        sharing = {
            "charged_s": round(charged_s(usage), 6),
            "shared_passes": usage.shared_passes,
            "shared_rows": usage.shared_rows,
        }
        waited = (self.began if self.began is not None else now) - self.received
        return {
            "queue_s": round(max(waited - self.load_s, 0.0), 6),
            "load_s": round(self.load_s, 6),
            "run_s": round(usage.run_s, 6),
            "save_s": round(usage.save_s, 6),
            "transfer_s": round(usage.transfer_s, 6),
            "total_s": round(now - self.received, 6),
            "tokens": usage.tokens,
            "peak_memory_bytes": usage.peak_memory_bytes,
            "attempts": self.job.attempts,
            **(sharing if usage.shared_passes > 0 else {}),
        }

    def _form(self, usage: link.Usage) -> dict[str, Any]:
        """What sets the result apart from one that any client reads as it was saved."""
        form: dict[str, Any] = {"packed": True} if usage.packed else {}
        if usage.rounded_tensors:
            form |= {"rounding": self.job.extras.rounding, "rounded_tensors": usage.rounded_tensors}
        return form

    def ending(self, message: link.AttemptEnded) -> Ending:
        """How the job ends when this attempt brings its end."""
        meta = self.cost(message.usage)
        if message.outcome is AttemptOutcome.COMPLETED:
            meta["result_bytes"] = message.result_bytes
            meta["result_sha256"] = message.result_sha256
            if message.kept_bytes is not None:
                meta["kept_bytes"] = message.kept_bytes
            meta |= self._form(message.usage)
            return Ending(
                JobState.COMPLETED,
                meta=meta,
                result_bytes=message.result_bytes,
                result_sha256=message.result_sha256,
                kept_bytes=message.kept_bytes,
                seconds=charged_s(message.usage),
                tokens=message.usage.tokens,
            )
        kind = errors.catalogue().get(message.error_code or "", errors.INTERNAL)
        # A user's traceback stands alone; what the fabric has to say ends with its code.
        told = EdifError(kind, message.sentence, message.next_step).detail
        description = message.sentence if kind is errors.USER_CODE else told
        state = JobState.CANCELLED if message.outcome is AttemptOutcome.CANCELLED else JobState.FAILED
        return Ending(
            state,
            description,
            kind.code,
            meta=meta,
            seconds=charged_s(message.usage),
            tokens=message.usage.tokens,
        )


def charged_s(usage: link.Usage) -> float:
    """The seconds that an attempt is charged: never more than it took, however the agent has divided what was shared."""
    return min(max(0.0, usage.charged_s), usage.run_s + usage.save_s)


class ActiveJobs:
    """All of them. What they use is entered in the ledger here and nowhere else."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._jobs: dict[JobId, ActiveJob] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[ActiveJob]:
        return iter(self._jobs.values())

    def get(self, job_id: JobId) -> ActiveJob | None:
        return self._jobs.get(job_id)

    def __getitem__(self, job_id: JobId) -> ActiveJob:
        return self._jobs[job_id]

    def payload_bytes(self) -> Counter[UserName]:
        """What the payloads of all jobs take, by owner."""
        sizes: Counter[UserName] = Counter()
        for active in self._jobs.values():
            sizes[active.job.owner] += active.job.payload_bytes
        return sizes

    def add(self, active: ActiveJob) -> None:
        """A job that is new, or that an earlier gateway left unfinished: it counts from now on."""
        self._jobs[active.job.id] = active
        self._ledger.enters(active.job.owner, active.job.state)
        self._ledger.stores(active.job.owner, active.job.payload_bytes)

    def enter(self, active: ActiveJob, state: JobState, **changes: Any) -> None:
        """The job has another state, and maybe other facts beside it."""
        self._ledger.moves(active.job.owner, active.job.state, state)
        active.job = replace(active.job, state=state, **changes)

    def charge(self, active: ActiveJob, ending: Ending, group: GroupName | None, now: float) -> None:
        """The job has used what its ending says, by ``now`` (Unix seconds)."""
        result_bytes = ending.result_bytes or 0
        self._ledger.spends(
            active.job.owner, group, day_of(now), seconds=ending.seconds, result_bytes=result_bytes
        )

    def end(self, active: ActiveJob, ending: Ending) -> None:
        """The job has ended on record; it is not active any more, and its result and what it keeps are stored."""
        self.forget(active)
        self._ledger.stores(active.job.owner, stored_bytes(ending))

    def forget(self, active: ActiveJob) -> None:
        """The job was not recorded after all, or another gateway has ended it."""
        if self._jobs.pop(active.job.id, None) is not None:
            self._ledger.moves(active.job.owner, active.job.state, JobState.FAILED)
            self._ledger.stores(active.job.owner, -active.job.payload_bytes)
