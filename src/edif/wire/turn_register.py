"""Which job of a shared runner has the turn, and since when: a few numbers, in memory that the runner writes and its agent reads.

A process that has died cannot say any more which of its jobs it was running, nor can one that a job keeps in a call that nothing
interrupts. The numbers are hearsay as all that a runner says: they decide who is run again alone first, and when, and nothing else.
"""

import mmap
import os
import struct
import time
from typing import NamedTuple

NOBODY = 0
"""The runner is between turns, or runs the model for several. Jobs are numbered from 1 on, in the order in which they enter it."""
_NUMBERS = struct.Struct("=QQQ")
"""Since when and for how long in nanoseconds, and whose turn it is: written in this order, so that nobody is taken to have had the turn
since an earlier one of his began."""


class TurnNote(NamedTuple):
    """What was written last.

    Attributes:
        number: of the job that has the turn.
        since_s: since when it has run at a stretch, a time of the monotonic clock, which is the machine's.
        most_s: after so long the runner interrupts it, if others wait and it can.
    """

    number: int = NOBODY
    since_s: float = 0.0
    most_s: float = 0.0


def make() -> int:
    """A register in which nobody has the turn; its descriptor, which is the caller's."""
    fd = os.memfd_create("edif-turn", os.MFD_CLOEXEC)
    os.ftruncate(fd, _NUMBERS.size)
    return fd


def read(fd: int) -> TurnNote:
    """What stands in it. One that was made too short says nobody."""
    data = os.pread(fd, _NUMBERS.size, 0)
    if len(data) != _NUMBERS.size:
        return TurnNote()
    since_ns, most_ns, number = _NUMBERS.unpack(data)
    return TurnNote(number, since_ns / 1e9, most_ns / 1e9)


class TurnRegister:
    """The runner's side.

    Args:
        fd: the register; closed here.
    """

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, _NUMBERS.size)
        os.close(fd)

    def note(self, number: int, most_s: float) -> None:
        """From now on this job has the turn, for so many seconds at a stretch if others wait."""
        _NUMBERS.pack_into(self._map, 0, time.monotonic_ns(), int(most_s * 1e9), number)
