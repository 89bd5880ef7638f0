"""The zygote: loads one model and forks the processes that run user code on it.

It never runs user code and never computes with more than one thread, because a child that uses OpenMP after
its parent did hangs. So it stays as it was after loading, and a runner that user code has spoiled is replaced
by a fresh fork in milliseconds, without reading the weights again.
"""

import ctypes
import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edif.walls.cell import Cell, close_in, close_off
from edif.walls.kernel import without_rights
from edif.walls.seccomp import Filter
from edif.wire import pipe
from edif.wire.link import CellLimits, Merging
from edif.wire.turn_register import TurnRegister

if TYPE_CHECKING:
    from edif.executor.merging.layout import Layout
    from edif.executor.runner import Together
    from edif.executor.sealed_forks import ForSealed
    from edif.executor.warm_up import Rehearsals
    from edif.executor.weights import WeightArena

_PR_SET_PDEATHSIG = 1
_MOST_HEAP = 16 * 1024 * 1024
_NO_PID, _CANNOT_FORK = -1, 72
_MOST_FDS = 2
"""Of a fork: its socket, and its seat or its turn register."""


def main(fd: int) -> None:
    """Run a zygote on the inherited socket ``fd`` until the agent closes it."""
    _die_with_parent()
    sock = socket.socket(fileno=fd)
    os.set_inheritable(fd, False)
    with suppress(pipe.PipeError):  # the agent has closed it, in the midst of loading or of a fork too
        message, _ = pipe.receive(sock, pipe.to_zygote)
        if isinstance(message, pipe.Load):
            _load_and_serve(sock, message)


def _load_and_serve(sock: socket.socket, load: pipe.Load) -> None:
    began = time.monotonic()
    pipe.send(sock, pipe.Loading("importing torch and nnsight"))
    from edif.executor.libraries import import_libraries

    import_libraries()
    import torch

    from edif.executor.loading import CannotLoad, adapter_folders, load_model, model_folders

    torch.set_num_threads(1)
    pipe.send(sock, pipe.Loading(f"loading {load.model.id}"))
    try:
        model = load_model(load.model)
        adapters = adapter_folders(load.model)
    except CannotLoad as error:
        pipe.send(sock, pipe.LoadFailed(pipe.clip(str(error))))
        return
    # What forks need is imported here, once: in a fork of its own it took 20 ms of processor time, of each of them.
    from edif.executor import own_memory, runner  # noqa: F401
    from edif.executor.merging import driver, sealed  # noqa: F401
    from edif.executor.warm_up import warm_up
    from edif.executor.weights import WeightArena

    rehearsals = warm_up(model)
    learned = _learn(model, load.merging) if load.merging is not None else None
    # After the first pass, in which a model may still make buffers.
    arena = WeightArena(model._module)  # noqa: SLF001 - nnsight's own name for the wrapped module
    gc.collect()
    gc.freeze()  # keep the collector from touching, and so copying, pages that the children share
    layout = None if learned is None else _told(sock, *learned, arena)
    pipe.send(sock, pipe.Loaded(time.monotonic() - began, arena.size_bytes))
    readable = tuple(Path(folder) for folder in (*model_folders(model), *adapters.values()))
    _Zygote(sock, model, arena, adapters, readable, load, rehearsals, layout).serve()


def _learn(model: Any, merging: Merging) -> tuple["Layout | None", str]:
    """Where rows lie in this model's values, and why its traces cannot be merged."""
    from edif.executor.merging.learning import learn

    return learn(model, merging.tolerance, merging.padding)


def _told(
    sock: socket.socket, layout: "Layout | None", why_not: str, arena: "WeightArena"
) -> "Layout | None":
    """The layout, if traces are merged by it; whether they are, the agent is told."""
    if not arena.tells_at_once:
        why_not = why_not or "whether a job has written to a weight cannot be told after every pass here"
    difference, padded = (0.0, None) if layout is None else (layout.difference, layout.padded_difference)
    pipe.send(sock, pipe.Mergeable(difference, pipe.clip(why_not), padded))
    return None if why_not else layout


class _Zygote:
    def __init__(
        self,
        sock: socket.socket,
        model: Any,
        arena: "WeightArena",
        adapters: dict[str, str],
        readable: tuple[Path, ...],
        load: pipe.Load,
        rehearsals: "Rehearsals",
        layout: "Layout | None",
    ) -> None:
        from edif.executor.job import LoadedModel
        from edif.executor.untouched import Untouched

        self._sock = sock
        self._loaded = LoadedModel(model, adapters)
        self._arena = arena
        self._threads = load.model.threads
        self._merging = load.merging
        self._layout = layout
        self._guard = arena.guard()
        self._untouched = Untouched(self._loaded.module, self._guard)
        self._rehearsals = rehearsals
        self._readable = readable
        self._sealed: ForSealed | None = None
        self._children: set[int] = set()

    def _cell(self, limits: CellLimits, scratch: str) -> Cell:
        return Cell(
            readable=self._readable,
            scratch=Path(scratch),
            scratch_bytes=limits.scratch_bytes,
            memory_bytes=limits.memory_bytes,
            file_bytes=limits.file_bytes,
            cpu_s=limits.cpu_s,
        )

    def serve(self) -> None:
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        os.set_blocking(wake_read, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            while self._step(wake_read):
                pass
        finally:
            for pid in self._children:
                os.kill(pid, signal.SIGKILL)

    def _step(self, wake_read: int) -> bool:
        readable, _, _ = select.select([self._sock.fileno(), wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 4096)
            self._reap()
        if self._sock.fileno() not in readable:
            return True
        try:
            message, fds = pipe.receive(self._sock, pipe.to_zygote)
        except pipe.PipeError:
            return False
        if isinstance(message, pipe.ForkRunner | pipe.ForkDriver) and 1 <= len(fds) <= _MOST_FDS:
            self._fork(fds, message)
        elif isinstance(message, pipe.KillChild) and message.pid in self._children:
            os.kill(message.pid, signal.SIGKILL)
        return True

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._children.discard(pid)
            pipe.send(self._sock, pipe.ChildExited(pid, os.waitstatus_to_exitcode(status)))

    def _prepare_sealed(self) -> "ForSealed":
        from edif.executor.rehearsing import Stage
        from edif.executor.sealed_forks import prepare

        settle = partial(_settle_child, os.getpid())
        stage = None
        if self._layout is not None and self._merging is not None:
            stage = Stage(self._layout, self._merging, self._untouched, settle)
        return prepare(self._loaded, self._rehearsals, stage, settle)

    def _fork(self, fds: list[int], request: pipe.ForkRunner | pipe.ForkDriver) -> None:
        if isinstance(request, pipe.ForkRunner) and request.cell is not None and self._sealed is None:
            self._sealed = self._prepare_sealed()
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:  # too many processes, or no memory: as if it had been made and had died at once
            _close(fds)
            pipe.send(self._sock, pipe.Forked(_NO_PID))
            pipe.send(self._sock, pipe.ChildExited(_NO_PID, _CANNOT_FORK))
            return
        if pid:
            _close(fds)
            self._children.add(pid)
            pipe.send(self._sock, pipe.Forked(pid))
            return
        try:
            _settle_child(parent)
            self._sock.close()
            self._become(fds, request)
            code = 0
        except pipe.PipeError:
            code = 0
        except BaseException:  # noqa: BLE001 - the child must never return into the zygote's loop
            sys.excepthook(*sys.exc_info())
            code = 70
        os._exit(code)

    def _become(self, fds: list[int], request: pipe.ForkRunner | pipe.ForkDriver) -> None:
        sock = socket.socket(fileno=fds[0])
        if isinstance(request, pipe.ForkDriver):
            self._drive(sock, request.merging)
        elif request.cell is None:
            if len(fds) != _MOST_FDS:
                raise pipe.PipeError("a shared runner is forked with a turn register")
            self._serve_shared(sock, TurnRegister(fds[1]))
        else:
            self._serve_sealed(sock, fds, request, request.cell)

    def _serve_shared(self, sock: socket.socket, turn: TurnRegister) -> None:
        from edif.executor import runner

        guard, rehearsal = self._arena.guard(), self._rehearsals.start
        runner.serve(sock, self._loaded, guard, self._threads, self._together(), turn.note, rehearsal)

    def _together(self) -> "Together | None":
        from edif.executor.runner import Together

        if self._layout is None or self._merging is None:
            return None
        return Together(self._merging, self._layout, self._untouched)

    def _drive(self, sock: socket.socket, merging: Merging) -> None:
        from edif.executor.merging import driver

        assert self._layout is not None
        close_off(self._readable, Filter(memory_files=True), (sock.fileno(),))
        driver.serve(sock, self._loaded.model, self._layout, merging, self._threads)

    def _serve_sealed(
        self, sock: socket.socket, fds: list[int], request: pipe.ForkRunner, cell: CellLimits
    ) -> None:
        from edif.executor import runner
        from edif.executor.merging.sealed import SealedCompany
        from edif.executor.own_memory import PAGEMAP

        assert self._sealed is not None
        if request.prepares:
            self._sealed.working_set.take()
        company = None
        if len(fds) == _MOST_FDS and self._layout is not None:
            # With rights, where root runs the fabric, it would tell the job where in the machine its pages lie.
            with without_rights():
                fds.append(os.open(PAGEMAP, os.O_RDONLY))
            self._guard.keep_looking_from(fds[-1])
            seat = socket.socket(fileno=fds[1])
            company = SealedCompany(seat, self._loaded.module, self._layout, self._untouched)
        close_in(self._cell(cell, request.scratch), self._sealed.calls, tuple(fds))
        if request.prepares:
            runner.prepare(
                self._loaded, self._rehearsals.start, min(self._arena.size_bytes // 16, _MOST_HEAP)
            )
        runner.serve_one(sock, self._loaded, self._threads, cell.memory_bytes, company)


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _settle_child(parent: int) -> None:
    """Die with the zygote, take its signal handling off, and be the first to go when memory runs out.

    Without the last, the kernel's choice could fall on a process that everyone needs.
    """
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:  # noqa: PTH123 - a kernel switch
        score.write("1000")
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _die_with_parent()
    if os.getppid() != parent:
        os._exit(71)
