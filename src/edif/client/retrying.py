"""How long something is tried again, and what is said meanwhile."""

import random
import threading
import time
from collections.abc import Callable

from edif.core import errors
from edif.core.errors import EdifError

Say = Callable[[str], None]

_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 5.0
_SILENT_S = 1.0  # what is mended sooner is not worth a line


class Patience:
    """The waits of one thing that is tried until it works: longer each time, and no longer than ``limit_s`` in all.

    Args:
        what: what is tried, as the start of a sentence: "Sending the trace".
        say: is told once when it takes more than a moment, and once when it works again.
        limit_s: without success or :meth:`progress`; None for no limit.
    """

    def __init__(self, what: str, say: Say, limit_s: float | None = None) -> None:
        self._what = what
        self._say = say
        self._limit_s = limit_s
        self._began: float | None = None
        self._said = False
        self._wait_s = _FIRST_WAIT_S
        self._lock = threading.Lock()  # some things are tried in several threads

    def progress(self) -> None:
        """It works again, at least for now."""
        with self._lock:
            if self._said:
                self._say(f"{self._what} goes on.")
            self._began, self._said, self._wait_s = None, False, _FIRST_WAIT_S

    def next_wait_s(self, reason: str, at_least_s: float = 0.0) -> float:
        """How long to wait before the next try, after one that failed for this reason.

        Raises:
            EdifError: it has been tried for ``limit_s``.
        """
        with self._lock:
            return self._next_wait_s(time.monotonic(), reason, at_least_s)

    def _next_wait_s(self, now: float, reason: str, at_least_s: float) -> float:
        if self._began is None:
            self._began = now
        tried_s = now - self._began
        if self._limit_s is not None and tried_s + at_least_s >= self._limit_s:
            since = f" for {tried_s:.0f} s" if self._limit_s else ""
            raise EdifError(errors.FABRIC_UNREACHABLE, f"{self._what} failed{since}: {reason}.")
        if tried_s + at_least_s > _SILENT_S and not self._said:
            self._said = True
            self._say(
                f"{self._what} has to wait: {reason}. It is tried again until it works; what the fabric has accepted is "
                "safe there, and Ctrl-C ends the waiting, not the job."
            )
        wait_s, self._wait_s = self._wait_s, min(2 * self._wait_s, _LONGEST_WAIT_S)
        return max(wait_s * random.uniform(0.5, 1.0), at_least_s)  # noqa: S311 - spreads clients, hides nothing

    def wait(self, reason: str, at_least_s: float = 0.0) -> None:
        time.sleep(self.next_wait_s(reason, at_least_s))


def told(error: BaseException) -> str:
    """The reason that an exception names, without the full stop that the sentence around it has."""
    return str(error).strip().rstrip(".") or type(error).__name__
