"""Which job of a shared runner has the turn: one number, in memory that the runner writes and its agent reads.

A process that has died cannot say any more which of its jobs it was running. The number is hearsay as all that a runner says:
it decides who is run again alone first, and nothing else.
"""

import mmap
import os
import struct

NOBODY = 0
"""The runner is between turns, or runs the model for several. Jobs are numbered from 1 on, in the order in which they enter it."""
_NUMBER = struct.Struct("=Q")


def make() -> int:
    """A register in which nobody has the turn; its descriptor, which is the caller's."""
    fd = os.memfd_create("edif-turn", os.MFD_CLOEXEC)
    os.ftruncate(fd, _NUMBER.size)
    return fd


def read(fd: int) -> int:
    """Who has the turn, as it was written last. One that was made too short says nobody."""
    data = os.pread(fd, _NUMBER.size, 0)
    return int(_NUMBER.unpack(data)[0]) if len(data) == _NUMBER.size else NOBODY


class TurnRegister:
    """The runner's side.

    Args:
        fd: the register; closed here.
    """

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, _NUMBER.size)
        os.close(fd)

    def note(self, number: int) -> None:
        """From now on this job has the turn."""
        _NUMBER.pack_into(self._map, 0, number)
