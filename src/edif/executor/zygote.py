"""The zygote: loads one model and forks the processes that run user code on it.

It never runs user code and never computes with more than one thread, because a child that uses OpenMP after
its parent did hangs. So it stays as it was after loading, and a runner that user code has spoiled is replaced
by a fresh fork in milliseconds, without reading the weights again.
"""

import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edif.walls import kernel
from edif.wire import pipe
from edif.wire.link import Merging

if TYPE_CHECKING:
    from edif.executor.devices.keeper import Keeper
    from edif.executor.devices.mark import Mark
    from edif.executor.devices.weights_there import WeightsThere
    from edif.executor.merging.layout import Layout
    from edif.executor.roles import Roles
    from edif.executor.weights import WeightArena

_NO_PID, _CANNOT_FORK = -1, 72


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

    from edif.executor.devices import CannotUseDevice
    from edif.executor.job import LoadedModel
    from edif.executor.loading import CannotLoad, adapter_folders, load_model, model_folders

    torch.set_num_threads(1)
    pipe.send(sock, pipe.Loading(f"loading {load.model.id}"))
    try:
        model = load_model(load.model)
        adapters = adapter_folders(load.model)
    except CannotLoad as error:
        pipe.send(sock, pipe.LoadFailed(pipe.clip(str(error))))
        return
    # What forks need is imported with it here, once: in a fork of its own it took 20 ms of processor time, of each of them.
    from edif.executor.inheritance import Inheritance
    from edif.executor.roles import Roles
    from edif.executor.warm_up import warm_up
    from edif.executor.weights import WeightArena

    rehearsals = warm_up(model)
    merging = None if load.model.on_device else load.merging
    learned = _learn(model, merging) if merging is not None else None
    # After the first pass, in which a model may still make buffers.
    arena = WeightArena(model._module)  # noqa: SLF001 - nnsight's own name for the wrapped module
    gc.collect()
    gc.freeze()  # keep the collector from touching, and so copying, pages that the children share
    layout = None if learned is None else _told(sock, *learned, arena)
    try:
        there = _bring(sock, load.model.device, arena)
    except CannotUseDevice as error:
        pipe.send(sock, pipe.LoadFailed(pipe.clip(str(error))))
        return
    readable = tuple(Path(folder) for folder in (*model_folders(model), *adapters.values()))
    loaded, threads = LoadedModel(model, adapters), load.model.threads
    roles = Roles(Inheritance(loaded, arena, there, rehearsals, readable, threads, merging, layout))
    pipe.send(sock, pipe.Loaded(time.monotonic() - began, arena.size_bytes))
    _Zygote(sock, roles, None if there is None else there.keeper).serve()


def _bring(sock: socket.socket, name: str, arena: "WeightArena") -> "WeightsThere | None":
    """The weights on the device of this name; None where it is the processor."""
    from edif.executor.devices import device_named
    from edif.executor.devices.weights_there import WeightsThere

    device, parent = device_named(name), os.getpid()
    if device is None:
        return None
    pipe.send(sock, pipe.Loading(f"putting the weights on {name}"))

    def settle() -> None:
        _settle_child(parent, first_to_go=False)  # all others would go with it
        sock.close()

    return WeightsThere(device, arena, settle)


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
    told = pipe.Mergeable(0.0, pipe.clip(why_not))
    if layout is not None:
        why_unpadded = pipe.clip("; ".join(layout.why_unpadded))
        told = pipe.Mergeable(layout.difference, told.why_not, layout.padded_difference, why_unpadded)
    pipe.send(sock, told)
    return None if why_not else layout


class _Zygote:
    """
    Args:
        sock: the agent's.
        roles: what forks become.
        keeper: who holds the weights on a device, if anyone does.
    """

    def __init__(self, sock: socket.socket, roles: "Roles", keeper: "Keeper | None") -> None:
        self._sock = sock
        self._roles = roles
        self._keeper = keeper
        self._children: dict[int, Mark | None] = {}
        """With the sign that a job has begun there, if that is asked."""

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
        if isinstance(message, pipe.ForkRunner | pipe.ForkDriver) and 1 <= len(fds) <= pipe.FORK_FDS:
            self._fork(fds, message)
        elif isinstance(message, pipe.KillChild) and message.pid in self._children:
            os.kill(message.pid, signal.SIGKILL)
        return True

    def _reap(self) -> None:
        while self._children or self._keeper is not None:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid not in self._children:  # the keeper
                raise pipe.PipeError("the weights are gone")
            mark = self._children.pop(pid)
            # Before anybody hears of it, and the next job begins; and not when one that had no job ends while another one's runs.
            if self._keeper is not None and mark is not None and mark.was_set():
                self._keeper.put_right()
            pipe.send(self._sock, pipe.ChildExited(pid, os.waitstatus_to_exitcode(status)))

    def _fork(self, fds: list[int], request: pipe.ForkRunner | pipe.ForkDriver) -> None:
        settle = partial(_settle_child, os.getpid())
        if isinstance(request, pipe.ForkRunner) and request.cell is not None:
            try:
                sealed = self._roles.sealed_fork(fds, request, request.cell, settle)
            except OSError:
                _close(fds)
                self._tell_no_fork()
            else:
                self._run_fork(kernel.fork, settle, sealed.serve, sealed.leave)
        else:
            self._run_fork(os.fork, settle, partial(self._roles.become, fds, request), partial(_close, fds))

    def _run_fork(
        self,
        fork: Callable[[], int],
        settle: Callable[[], None],
        become: Callable[[], None],
        leave: Callable[[], None],
    ) -> None:
        """
        Args:
            settle: what the fork does first.
            become: what it does then.
            leave: what the zygote does, also if there is none.
        """
        from edif.executor.devices.mark import Mark

        mark = None
        try:
            mark = None if self._keeper is None else Mark()
            pid = fork()
        except OSError:  # too many processes, or no memory
            leave()
            if mark is not None:
                mark.discard()
            self._tell_no_fork()
            return
        if pid:
            leave()
            if mark is not None:
                mark.of_zygote()
            self._children[pid] = mark
            pipe.send(self._sock, pipe.Forked(pid))
            return
        try:
            settle()
            self._sock.close()
            if mark is not None:
                mark.of_this_fork()
                self._roles.be_marked(mark)
            become()
            code = 0
        except pipe.PipeError:
            code = 0
        except BaseException:  # noqa: BLE001 - the child must never return into the zygote's loop
            sys.excepthook(*sys.exc_info())
            code = 70
        os._exit(code)

    def _tell_no_fork(self) -> None:
        """As if it had been made and had died at once."""
        pipe.send(self._sock, pipe.Forked(_NO_PID))
        pipe.send(self._sock, pipe.ChildExited(_NO_PID, _CANNOT_FORK))


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _die_with_parent() -> None:
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)


def _settle_child(parent: int, *, first_to_go: bool = True) -> None:
    """Die with the zygote, take its signal handling off, and be the first to go when memory runs out.

    Without the last, the kernel's choice could fall on a process that everyone needs.
    """
    if first_to_go:
        kernel.write("/proc/self/oom_score_adj", b"1000")
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _die_with_parent()
    if os.getppid() != parent:
        os._exit(71)
