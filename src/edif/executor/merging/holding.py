"""For how long a job that runs a pass by itself keeps others from doing so: several times what is usual, and no longer.

It says itself when that pass is over, and one that never does would else keep its place until its time limit. How long a pass may
take, of a large generation say, nobody knows beforehand: one that takes longer is left alone, and only others may begin beside it.
"""

from collections import deque
from dataclasses import dataclass, field
from statistics import median

LEAST_S = 2.0
MOST_S = 60.0
"""Also as long as nothing is known."""
_TIMES = 8.0
_LAST = 15  # of these the median: whoever wants to be taken for usual has to be so more often than not


@dataclass(slots=True)
class Holding:
    """Seconds of wall time."""

    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_LAST))

    def note(self, seconds: float) -> None:
        """A job has run a pass by itself in so long."""
        self._seconds.append(seconds)

    @property
    def most_s(self) -> float:
        """So long one counts."""
        if not self._seconds:
            return MOST_S
        return min(max(LEAST_S, _TIMES * median(self._seconds)), MOST_S)
