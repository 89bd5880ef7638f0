"""For how long a job's code may run at a stretch in a shared runner while others wait: several times what is usual, and no longer.

The others wait for as long, so it is short; and it is measured, so that a busy machine does not make a misfit of everybody. A job that
takes longer is run again alone, where it keeps nobody.
"""

import os
import time
import weakref
from collections import deque
from contextlib import suppress
from statistics import median

LEAST_S = 0.05
MOST_S = 0.5
"""Also as long as nothing is known."""
UNHURRIED_S = 30.0
"""And so long where it is not the job's own code that takes its time: where the model runs for it alone, or its result is saved."""
_BEGINNINGS = 8.0
"""Until it asks for its first pass, a job is read and traced: of what most jobs do in one stretch that takes longest."""
_PASSES = 0.5
_LAST = 15  # of these the median: whoever wants to be taken for usual has to be so more often than not
_VISITS = 4
"""So many times what one stretch may take, all of a job's visits in a pass together may, and as long as the model beside."""

_SCHEDSTAT = "/proc/thread-self/schedstat"
"""Nanoseconds on a processor, nanoseconds in which it waited for one, and how often it got one."""


class Stretch:
    """Since when the code that runs has done so, on the thread by which this was made.

    What the thread waited for a processor that others had does not count: of a busy machine no job is to blame.
    """

    def __init__(self) -> None:
        self._stat: int | None = None
        with suppress(FileNotFoundError):  # some kernels are without it
            self._stat = os.open(_SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._stat)
        self.begin()

    def begin(self) -> None:
        self._began = self._own_time()

    @property
    def seconds(self) -> float:
        return self._own_time() - self._began

    def _own_time(self) -> float:
        now = time.monotonic()
        if self._stat is None:
            return now
        return now - int(os.pread(self._stat, 100, 0).split()[1]) / 1e9


class Patience:
    """Seconds of wall time."""

    def __init__(self) -> None:
        self._beginnings: deque[float] = deque(maxlen=_LAST)
        self._passes: deque[float] = deque(maxlen=_LAST)

    def began(self, seconds: float) -> None:
        """A job has come to its first pass, or to its end, in so long."""
        self._beginnings.append(seconds)

    def passed(self, seconds: float) -> None:
        """A shared pass has taken so long."""
        self._passes.append(seconds)

    @property
    def seconds(self) -> float:
        """So long one stretch may take."""
        if not self._beginnings:
            return MOST_S
        usual = max(_BEGINNINGS * median(self._beginnings), _PASSES * median(self._passes or [0.0]))
        return min(max(LEAST_S, usual), MOST_S)


class Taken:
    """What the jobs of a shared pass have taken of it for their own code.

    A generation visits a job at every step: each time for less than others can be made to wait, and in all for longer than they would take
    without it. Nobody has to wait for one job, in all its visits together, for much longer than the model takes for all of them.

    Args:
        of_stretch_s: so long one visit may take.
    """

    def __init__(self, of_stretch_s: float) -> None:
        self._beside_s = _VISITS * of_stretch_s
        self._seconds: dict[int, float] = {}

    def note(self, number: int, seconds: float, pass_s: float) -> bool:
        """A visit of this job has taken so long; the pass so far, all visits included, ``pass_s``. Returns whether that is too much in all."""
        self._seconds[number] = self._seconds.get(number, 0.0) + seconds
        model_s = max(pass_s - sum(self._seconds.values()), 0.0)
        return self._seconds[number] > self._beside_s + model_s
