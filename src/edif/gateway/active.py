"""A job that has not ended, as this gateway sees it: its last status, its clocks, and who listens."""

import time
from dataclasses import dataclass, field
from typing import Any

from edif.core import errors
from edif.core.errors import EdifError
from edif.core.job import AttemptOutcome, ClientStatus, Ending, Job, JobState
from edif.gateway.subscribers import Subscriber
from edif.wire import link
from edif.wire.client_protocol import StatusFrame


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

    def tell_waiting(self, position: int, *, loading: bool, any_agent: bool) -> None:
        """Tell the place in the queue (1 is next) and what is waited for."""
        if not loading:
            self.tell(ClientStatus.QUEUED, f"Position {position} in the queue of {self.job.model}.")
        elif any_agent:
            self.tell(
                ClientStatus.DEPLOYING, f"The model is being brought up; position {position} in the queue."
            )
        else:
            self.tell(
                ClientStatus.PROVISIONING,
                f"Waiting for a node to join the fabric; position {position} in the queue.",
            )

    def tell_cancellable(self, status: ClientStatus) -> None:
        self.tell(status, f"To cancel: edif jobs cancel {self.job.id}")

    def note_load(self) -> None:
        """The model is up: what was waited until now, was waited for it."""
        self.load_s = time.monotonic() - self.received

    def cost(self, usage: link.Usage) -> dict[str, Any]:
        """What the client is told of the job's cost, as ``meta``. Seconds are wall time."""
        now = time.monotonic()
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
        }

    def ending(self, message: link.AttemptEnded) -> Ending:
        """How the job ends when this attempt brings its end."""
        meta = self.cost(message.usage)
        if message.outcome is AttemptOutcome.COMPLETED:
            meta["result_bytes"] = message.result_bytes
            return Ending(
                JobState.COMPLETED,
                meta=meta,
                result_bytes=message.result_bytes,
                result_sha256=message.result_sha256,
                seconds=message.usage.run_s,
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
            seconds=message.usage.run_s,
            tokens=message.usage.tokens,
        )
