"""What a fork of the zygote becomes: a shared runner, a sealed one, or the driver of several sealed ones."""

import socket
from collections.abc import Callable, Sequence

from edif.executor import runner
from edif.executor.devices.mark import Mark
from edif.executor.devices.weights_there import GuardThere, WeightsThere
from edif.executor.inheritance import Inheritance
from edif.executor.merging import driver
from edif.executor.rehearsing import Stage
from edif.executor.runner import Together
from edif.executor.sealed_fork import SealedFork, cell_of
from edif.executor.sealed_forks import ForSealed, prepare
from edif.executor.untouched import Untouched
from edif.executor.warm_up import rehearse
from edif.executor.weights import Guard
from edif.walls.cell import close_off
from edif.walls.seccomp import Filter
from edif.wire import pipe
from edif.wire.link import CellLimits, Merging
from edif.wire.turn_register import TurnRegister


class Roles:
    """Made in the zygote; :meth:`become` is called in its forks, but for sealed ones."""

    def __init__(self, inheritance: Inheritance) -> None:
        self._had = inheritance
        self._guard = inheritance.arena.guard()
        self._untouched = Untouched(inheritance.loaded.module, self._guard)
        self._sealed: ForSealed | None = None

    def _for_sealed(self, settle: Callable[[], None]) -> ForSealed:
        if self._sealed is None:
            had, stage = self._had, None
            if had.layout is not None and had.merging is not None:
                stage = Stage(had.layout, had.merging, self._untouched, settle)
            calls = Filter(cards=had.there is not None and bool(had.there.device.files))
            self._sealed = prepare(had.loaded, had.rehearsals, stage, settle, calls)
        return self._sealed

    def sealed_fork(
        self, fds: Sequence[int], request: pipe.ForkRunner, limits: CellLimits, settle: Callable[[], None]
    ) -> SealedFork:
        """What the next fork will be. In the zygote; takes seconds before the first of them.

        Args:
            settle: what a fork does first.

        Raises:
            OSError: a wall cannot be built.
        """
        sealed, cell = self._for_sealed(settle), cell_of(self._had, limits, request.scratch)
        return SealedFork(
            *(fds, cell, self._had, sealed, self._untouched, self._guard),
            memory_bytes=limits.memory_bytes,
            prepares=request.prepares,
        )

    def be_marked(self, mark: Mark) -> None:
        """In a fork, first: have this set when a job begins there. Where the model computes on a device."""
        assert self._had.there is not None
        self._had.there.mark = mark
        self._had.loaded.on_job = mark.set

    def become(self, fds: list[int], request: pipe.ForkRunner | pipe.ForkDriver) -> None:
        """Play the part that is asked for until it is over.

        Args:
            fds: this process's socket, and what came with it.
        """
        sock = socket.socket(fileno=fds[0])
        if isinstance(request, pipe.ForkDriver):
            self._drive(sock, request.merging)
            return
        if len(fds) != pipe.FORK_FDS:
            raise pipe.PipeError("a shared runner is forked with a turn register")
        self._serve_shared(sock, TurnRegister(fds[1]))

    def _serve_shared(self, sock: socket.socket, turn: TurnRegister) -> None:
        had = self._had
        guard: Guard = had.arena.guard()
        if had.there is not None:
            guard = self._guard_there(had.there)
            rehearse(had.loaded, had.rehearsals.whole)
        together = None
        if had.layout is not None and had.merging is not None:
            together = Together(had.merging, had.layout, self._untouched)
        runner.serve(sock, had.loaded, guard, had.threads, together, turn.note, had.rehearsals.start)

    def _guard_there(self, there: WeightsThere) -> Guard:
        had, guard = self._had, GuardThere(there.bring(self._had.loaded))
        mark = there.mark

        def on_job() -> None:
            if mark is not None:
                mark.set()
            guard.look()

        had.loaded.on_job = on_job
        return guard

    def _drive(self, sock: socket.socket, merging: Merging) -> None:
        had = self._had
        assert had.layout is not None
        close_off(had.readable, Filter(memory_files=True), (sock.fileno(),))
        driver.serve(sock, had.loaded.model, had.layout, merging, had.threads)
