"""What a fork of the zygote becomes: a shared runner, a sealed one, or the driver of several sealed ones."""

import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from edif.executor import runner
from edif.executor.devices.weights_there import GuardThere, WeightsThere
from edif.executor.job import LoadedModel
from edif.executor.merging import driver
from edif.executor.merging.layout import Layout
from edif.executor.merging.sealed import SealedCompany
from edif.executor.own_memory import PAGEMAP
from edif.executor.rehearsing import Stage
from edif.executor.runner import Together
from edif.executor.sealed_forks import ForSealed, prepare
from edif.executor.untouched import Untouched
from edif.executor.warm_up import Rehearsals, rehearse
from edif.executor.weights import Guard, WeightArena
from edif.walls.cell import STATM, Cell, close_in, close_off, limit_memory
from edif.walls.kernel import without_rights
from edif.walls.seccomp import Filter
from edif.wire import pipe
from edif.wire.link import CellLimits, Merging
from edif.wire.turn_register import TurnRegister

_MOST_HEAP = 16 * 1024 * 1024


class Inheritance(NamedTuple):
    """What all forks have of the zygote.

    Attributes:
        loaded: the model.
        arena: its weights, in the host's memory.
        there: where it computes on a device, the weights there.
        rehearsals: small jobs of our own.
        readable: the model's folders.
        threads: of a process that computes.
        merging: the bounds of shared passes; None if there are none.
        layout: how rows lie in the model's values; None if its traces are not merged.
    """

    loaded: LoadedModel
    arena: WeightArena
    there: WeightsThere | None
    rehearsals: Rehearsals
    readable: tuple[Path, ...]
    threads: int
    merging: Merging | None
    layout: Layout | None


class Roles:
    """Made in the zygote; :meth:`become` is called in its forks."""

    def __init__(self, inheritance: Inheritance) -> None:
        self._had = inheritance
        self._guard = inheritance.arena.guard()
        self._untouched = Untouched(inheritance.loaded.module, self._guard)
        self._sealed: ForSealed | None = None

    def prepare_sealed(self, settle: Callable[[], None]) -> None:
        """Have what sealed forks need. In the zygote, before the first of them; takes seconds then.

        Args:
            settle: what a fork does first.
        """
        if self._sealed is not None:
            return
        had, stage = self._had, None
        if had.layout is not None and had.merging is not None:
            stage = Stage(had.layout, had.merging, self._untouched, settle)
        calls = Filter(cards=had.there is not None and bool(had.there.device.files))
        self._sealed = prepare(had.loaded, had.rehearsals, stage, settle, calls)

    def become(self, fds: list[int], request: pipe.ForkRunner | pipe.ForkDriver) -> None:
        """Play the part that is asked for until it is over.

        Args:
            fds: this process's socket, and what came with it.
        """
        sock = socket.socket(fileno=fds[0])
        if isinstance(request, pipe.ForkDriver):
            self._drive(sock, request.merging)
        elif request.cell is None:
            if len(fds) != pipe.FORK_FDS:
                raise pipe.PipeError("a shared runner is forked with a turn register")
            self._serve_shared(sock, TurnRegister(fds[1]))
        else:
            self._serve_sealed(sock, fds, request, request.cell)

    def _serve_shared(self, sock: socket.socket, turn: TurnRegister) -> None:
        had = self._had
        guard: Guard = had.arena.guard()
        if had.there is not None:
            guard = GuardThere(had.there.bring(had.loaded))
            rehearse(had.loaded, had.rehearsals.whole)
        together = None
        if had.layout is not None and had.merging is not None:
            together = Together(had.merging, had.layout, self._untouched)
        runner.serve(sock, had.loaded, guard, had.threads, together, turn.note, had.rehearsals.start)

    def _drive(self, sock: socket.socket, merging: Merging) -> None:
        had = self._had
        assert had.layout is not None
        close_off(had.readable, Filter(memory_files=True), (sock.fileno(),))
        driver.serve(sock, had.loaded.model, had.layout, merging, had.threads)

    def _serve_sealed(
        self, sock: socket.socket, fds: list[int], request: pipe.ForkRunner, cell: CellLimits
    ) -> None:
        had = self._had
        assert self._sealed is not None
        if request.prepares:
            self._sealed.working_set.take()
        company = self._seated(fds) if len(fds) == pipe.FORK_FDS and had.layout is not None else None
        close = partial(close_in, self._cell(cell, request.scratch), self._sealed.calls)
        if had.there is not None:
            self._close_in_there(had.there, close, fds, cell.memory_bytes)
        else:
            close(tuple(fds))
            if request.prepares:
                heap = min(had.arena.size_bytes // 16, _MOST_HEAP)
                runner.prepare(had.loaded, had.rehearsals.start, heap)
        runner.serve_one(sock, had.loaded, had.threads, cell.memory_bytes, company)

    def _seated(self, fds: list[int]) -> SealedCompany:
        """The company of a job that may share passes; its seat is the second of ``fds``, and one more comes to them."""
        had = self._had
        assert had.layout is not None
        # With rights, where root runs the fabric, it would tell the job where in the machine its pages lie.
        with without_rights():
            fds.append(os.open(PAGEMAP, os.O_RDONLY))
        self._guard.keep_looking_from(fds[-1])
        return SealedCompany(socket.socket(fileno=fds[1]), had.loaded.module, had.layout, self._untouched)

    def _close_in_there(
        self, there: WeightsThere, close: Callable[[tuple[int, ...]], None], fds: list[int], memory_bytes: int
    ) -> None:
        """Close the process in, and only then begin with the device: its libraries start threads, each of which would have to be closed in."""
        statm = os.open(STATM, os.O_RDONLY)
        close((*fds, statm, *there.keeper.shared.fds))
        there.bring(self._had.loaded)
        limit_memory(memory_bytes, statm)
        rehearse(self._had.loaded, self._had.rehearsals.whole)

    def _cell(self, limits: CellLimits, scratch: str) -> Cell:
        there = self._had.there
        device = None if there is None else there.device
        return Cell(
            readable=(*self._had.readable, *(() if device is None else device.folders)),
            scratch=Path(scratch),
            scratch_bytes=limits.scratch_bytes,
            memory_bytes=limits.memory_bytes,
            file_bytes=limits.file_bytes,
            cpu_s=limits.cpu_s,
            devices=() if device is None else device.files,
            variables=() if device is None else device.variables,
        )
