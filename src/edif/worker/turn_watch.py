"""That no job of a shared runner keeps the others for longer than they can bear.

A runner interrupts code that takes long while others wait, by a signal. A call into C does not hear signals, and code can pass over
them: then the others would wait until that job's time is up. So their agent looks, too.
"""

import asyncio
import time
from collections.abc import Callable

from edif.wire.turn_register import NOBODY, TurnNote

LEAST_S = 4.0
"""So long a job may run at a stretch while others wait, and what is named next beside. It is several times what the runner itself allows
to a job's code, and counts all time: also such as others took on a busy machine."""
_TIMES = 2.0
_MOST_ALLOWED_S = 30.0
"""And twice what the runner says that it allows, but for what no runner of ours says. That is much for what honest jobs do for long at a
stretch: to run a pass of their own, to read what was sent, to save a result."""


def due(note: TurnNote, several_since: float, now: float) -> float | None:
    """When the job that has the turn has had it for too long; None if nobody has it.

    Args:
        note: what the runner says.
        several_since: since when others are there. Before that it kept nobody.
    """
    if note.number == NOBODY:
        return None
    since = min(max(note.since_s, several_since), now)
    return since + LEAST_S + _TIMES * min(note.most_s, _MOST_ALLOWED_S)


class TurnWatch:
    """Looks every few seconds while there are several jobs, and not otherwise.

    Args:
        read: what stands in the runner's register.
        overdue: called with the number of a job that has had the turn for too long; then nothing more is watched.
    """

    def __init__(self, read: Callable[[], TurnNote], overdue: Callable[[int], None]) -> None:
        self._read = read
        self._overdue = overdue
        self._loop = asyncio.get_running_loop()
        self._several_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._over = False

    def several(self, there: bool) -> None:
        """Whether several jobs are there from now on."""
        if not there:
            self._stop()
        elif self._timer is None and not self._over:
            self._several_since = time.monotonic()
            self._look_in(LEAST_S)

    def close(self) -> None:
        """Nothing is watched any more."""
        self._over = True
        self._stop()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_in(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        note, now = self._read(), time.monotonic()
        at = due(note, self._several_since, now)
        if at is not None and at <= now:
            self.close()
            self._overdue(note.number)
        else:  # A turn that begins after this look is not due before the next one.
            self._look_in(LEAST_S if at is None else min(at - now, LEAST_S))
