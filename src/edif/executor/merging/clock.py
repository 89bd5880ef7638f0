"""The clock by which a job's code in a shared runner is interrupted, when it runs for long at a stretch and others wait."""

import signal
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent
from nnsight.tracing import tracer as tracing

from edif.executor.merging.misfit import Misfit
from edif.executor.merging.patience import Patience, Stretch

_SHORTEST_S = 0.001
"""Less than this is no reason to set a clock again."""


class Clock:
    """The process's alarm clock. Made on the greenlet from which jobs get their turns.

    Args:
        somebody_waits: whether anybody else than the job whose turn it is waits now.

    Attributes:
        patience: what is usual.
        most_s: so long the code that runs may do so at a stretch.
    """

    def __init__(self, somebody_waits: Callable[[], bool]) -> None:
        self.patience = Patience()
        self._somebody_waits = somebody_waits
        self._stretch = Stretch()
        self.most_s = 0.0
        self._here = getcurrent()
        self.stop()

    @property
    def is_taken(self) -> bool:
        """Whether the job whose turn it is has taken it for itself."""
        return signal.getsignal(signal.SIGALRM) != self._rings

    @property
    def stretch_s(self) -> float:
        """For how long the present stretch has lasted."""
        return self._stretch.seconds

    def start(self, seconds: float | None = None) -> None:
        """From now on the code that runs may do so for so long at a stretch, if others wait then; and again so long if it takes no notice.

        Args:
            seconds: None for what is usual.
        """
        self.most_s = self.patience.seconds if seconds is None else seconds
        self._stretch.begin()
        if not self.is_taken:
            signal.setitimer(signal.ITIMER_REAL, self.most_s, self.most_s)

    def stop(self) -> None:
        """It is nobody's turn. A clock that a job has taken is taken back."""
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        if self.is_taken:
            signal.signal(signal.SIGALRM, self._rings)

    def _rings(self, *_: Any) -> None:
        # Only a job's own code is interrupted, and not what is done for it before and afterwards: here, or outside its block.
        if getcurrent() is self._here or getattr(tracing._local, "depth", 0) == 0:  # noqa: SLF001 - raised by what runs a block
            return
        left_s = self.most_s - self._stretch.seconds
        if left_s > _SHORTEST_S:
            signal.setitimer(signal.ITIMER_REAL, left_s, self.most_s)
        elif self._somebody_waits():
            raise Misfit("its code took long while others waited")
