"""One fork for a sealed job: what it needs is made in the zygote, so that little is left for it to do.

What a fresh fork touches first the kernel copies or maps for it, page by page: Python code that takes the zygote 10 us takes the fork 100.
"""

import os
import socket
from collections.abc import Sequence
from pathlib import Path

from edif.executor import runner
from edif.executor.devices.weights_there import WeightsThere
from edif.executor.inheritance import Inheritance
from edif.executor.merging.sealed import SealedCompany
from edif.executor.own_memory import PAGEMAP
from edif.executor.reset import draw_anew
from edif.executor.sealed_forks import ForSealed
from edif.executor.untouched import Untouched
from edif.executor.warm_up import rehearse
from edif.executor.weights import WeightGuard
from edif.walls.cell import STATM, Cell, Closing, limit_memory
from edif.wire import pipe
from edif.wire.link import CellLimits

_MOST_HEAP = 16 * 1024 * 1024


class SealedFork:
    """
    Args:
        fds: its socket, and its seat if it has one: this object's, once it is made.
        cell: what it may use.
        memory_bytes: how much its job may reserve.
        prepares: whether it does ahead what its job would have to wait for.
        inheritance: what all forks have.
        shared: what all sealed ones have.

    Raises:
        OSError: a wall cannot be built.
    """

    def __init__(
        self,
        fds: Sequence[int],
        cell: Cell,
        inheritance: Inheritance,
        shared: ForSealed,
        untouched: Untouched,
        guard: WeightGuard,
        *,
        memory_bytes: int,
        prepares: bool,
    ) -> None:
        self._had = inheritance
        self._shared = shared
        self._guard = guard
        self._prepares = prepares
        self._memory_bytes = memory_bytes
        self._closing = Closing(cell, shared.calls)
        self._socks = [socket.socket(fileno=fd) for fd in fds]
        self._company = None
        if len(fds) == pipe.FORK_FDS and inheritance.layout is not None:
            module, layout = inheritance.loaded.module, inheritance.layout
            self._company = SealedCompany(self._socks[1], module, layout, untouched)

    def leave(self) -> None:
        """The zygote has no more use for it."""
        self._closing.close()
        for sock in self._socks:
            sock.close()

    def serve(self) -> None:
        """Close in and serve the job. Called in the fork."""
        had = self._had
        draw_anew()  # or all of them would draw what the zygote would
        if self._prepares:
            self._shared.working_set.take()
        fds = [sock.fileno() for sock in self._socks]
        if self._company is not None:
            # With rights, where root runs the fabric, it would tell the job where in the machine its pages lie.
            with self._shared.without_rights:
                fds.append(os.open(PAGEMAP, os.O_RDONLY))
            self._guard.keep_looking_from(fds[-1])
        if had.there is not None:
            self._close_in_there(had.there, fds)
        else:
            self._closing.carry_out(tuple(fds))
            if self._prepares:
                heap = min(had.arena.size_bytes // 16, _MOST_HEAP)
                runner.prepare(had.loaded, had.rehearsals.start, heap)
        runner.serve_one(self._socks[0], had.loaded, had.threads, self._memory_bytes, self._company)

    def _close_in_there(self, there: WeightsThere, fds: Sequence[int]) -> None:
        """Close the process in, and only then begin with the device: its libraries start threads, each of which would have to be closed in."""
        statm = os.open(STATM, os.O_RDONLY)
        marked = () if there.mark is None else (there.mark.fd,)
        self._closing.carry_out((*fds, statm, *marked, *there.keeper.shared.fds))
        there.bring(self._had.loaded)
        limit_memory(self._memory_bytes, statm)
        rehearse(self._had.loaded, self._had.rehearsals.whole)


def cell_of(inheritance: Inheritance, limits: CellLimits, scratch: str) -> Cell:
    """What one of them may use."""
    device = None if inheritance.there is None else inheritance.there.device
    return Cell(
        readable=(*inheritance.readable, *(() if device is None else device.folders)),
        scratch=Path(scratch),
        scratch_bytes=limits.scratch_bytes,
        memory_bytes=limits.memory_bytes if device is None else None,
        file_bytes=limits.file_bytes,
        cpu_s=limits.cpu_s,
        devices=() if device is None else device.files,
        variables=() if device is None else device.variables,
    )
