"""What becomes of an attempt, told on the way, and what it has used so far."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from edif.wire import link, pipe

_LOG_NOTICE_BYTES = 200
"""Room for the executor's own notice that the rest was cut."""

Say = Callable[[link.ToGateway], None]


@dataclass(slots=True)
class _Try:
    """What is known of one try. Seconds are wall time.

    Attributes:
        printed: characters that it has printed.
        shared_passes: of its forward passes, those that it shared with others.
        shared_rows: rows of the largest of them.
        waited_s: for how long it waited for those.
        own_s: of what they took, its share by its rows.
    """

    printed: int = 0
    shared_passes: int = 0
    shared_rows: int = 0
    waited_s: float = 0.0
    own_s: float = 0.0


class Progress:
    """An attempt, which may take several tries.

    What the executor says is passed on within the limits that it should keep itself. Seconds and memory are measured
    outside it; how the seconds divide, and the tokens, are its own word.
    """

    def __init__(self, message: link.RunAttempt, say: Say) -> None:
        self._message = message
        self._say = say
        self._left = message.log_limit_bytes + _LOG_NOTICE_BYTES
        self._told_saving = False
        self._told = 0
        """Characters that were passed on of what it prints, or would have been were there room."""
        self._try = _Try()
        self._before_s = 0.0
        """What the tries before this one are charged."""
        self._last_s = 0.0
        """Of the last try that came to begin, all of it."""
        self._began = time.monotonic()
        self.usage = link.Usage()

    def started(self) -> None:
        self._say(link.AttemptStarted(self._message.job, self._message.attempt))

    def try_again(self) -> None:
        """The job is run again from its beginning: what it printed is not printed twice."""
        self._before_s = self.usage.charged_s
        self._try = _Try()
        self._began = time.monotonic()
        self._use(shared_passes=0, shared_rows=0)

    def shared(self, said: pipe.Shared) -> None:
        """It had its part in a shared pass."""
        own_rows = min(said.own_rows, said.rows)
        if own_rows == 0:
            return
        # Not longer than there was time for: in the end its own word may be all that is known.
        waited_s = min(said.waited_s, time.monotonic() - self._began)
        self._try.shared_passes += 1
        self._try.shared_rows = max(self._try.shared_rows, said.rows)
        self._try.waited_s += waited_s
        self._try.own_s += min(said.seconds, waited_s) * own_rows / said.rows
        self._use(shared_passes=self._try.shared_passes, shared_rows=self._try.shared_rows)

    def spent(self, seconds: float, memory_bytes: int) -> None:
        """A try that had begun is over."""
        self._use(
            run_s=self.usage.run_s + seconds,
            charged_s=self._before_s + self._charge(seconds),
            peak_memory_bytes=max(self.usage.peak_memory_bytes, memory_bytes),
        )
        self._last_s = seconds

    def done(self, said: pipe.Done) -> None:
        whole = self._last_s
        save_s = min(max(said.save_s, 0.0), whole)
        self._use(
            run_s=self.usage.run_s - save_s,
            charged_s=self._before_s + self._charge(whole - save_s),
            save_s=save_s,
            tokens=said.tokens,
            packed=said.packed,
            rounded_tensors=said.rounded,
        )

    def _charge(self, run_s: float) -> float:
        """What a try of so many seconds is charged: where it waited for a shared pass, only its part of that."""
        return min(max(run_s - self._try.waited_s, 0.0) + self._try.own_s, run_s)

    def failed(self, said: pipe.Failed) -> None:
        self._use(tokens=said.tokens)

    def moved(self, seconds: float) -> None:
        self._use(transfer_s=seconds)

    def _use(self, **fields: float) -> None:
        self.usage = msgspec.structs.replace(self.usage, **fields)

    def log(self, text: str) -> None:
        start = self._try.printed
        self._try.printed += len(text)
        new = text[max(self._told - start, 0) :]
        self._told = max(self._told, self._try.printed)
        self._left -= len(new)
        if new and self._left >= 0:
            self._say(link.AttemptLog(self._message.job, self._message.attempt, new))

    def saving(self) -> None:
        if not self._told_saving:
            self._told_saving = True
            self._say(link.AttemptSaving(self._message.job, self._message.attempt))
