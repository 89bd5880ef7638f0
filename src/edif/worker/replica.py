"""One replica, seen from the agent: a process family behind two pipes.

The agent starts the zygote with an empty environment and one inherited socket, waits until it holds the
model, has it fork runners, and hands each one job at a time. A shared runner serves many jobs; one that dies or
says that it is spoiled is replaced by a new fork. A sealed one serves one job in a cell and is killed after it;
the next stands ready by then. The zygote's own death ends the replica.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from edif.wire import pipe
from edif.wire.link import CellLimits, ModelSpec
from edif.worker.environment import environment_from
from edif.worker.runners import JobCallbacks, Runner, RunnerCallbacks, RunnerDied

log = structlog.get_logger()

_STOP_GRACE_S = 5.0
_RUNNER_ATTEMPTS = 5
_FILL_AFTER_S = 0.025
_TAKE_S = 300.0
"""Waiting for a runner takes milliseconds, or as long as the zygote is busy with its preparations."""
_READY_AHEAD = 2
"""Sealed runners that stand ready: making one takes longer than a small job."""


@dataclass(frozen=True, slots=True)
class ReplicaCallbacks:
    """How a replica tells its agent what happens to it.

    ``failed`` is given a sentence, and whether the process died without saying what stood against it.
    """

    loading: Callable[[str], None]
    ready: Callable[[float, int], None]
    failed: Callable[[str, bool], None]


class Replica:
    """Starts, watches and feeds one process family.

    Args:
        replica_id: its name on the link.
        spec: what it loads.
        callbacks: called from the event loop, never after :meth:`stop` has returned.
        environment: the agent's environment; only the few names that loading needs are passed on.
        cell: that of the jobs to come; None for shared ones. A job that comes with another one changes it.
        scratch: a folder for the scratch folders of sealed jobs.
    """

    def __init__(
        self,
        replica_id: str,
        spec: ModelSpec,
        callbacks: ReplicaCallbacks,
        environment: dict[str, str],
        cell: CellLimits | None,
        scratch: Path,
    ) -> None:
        self.id = replica_id
        self.spec = spec
        self.is_ready = False
        self._callbacks = callbacks
        self._environment = environment_from(environment)
        self._loop = asyncio.get_running_loop()
        self._process: asyncio.subprocess.Process | None = None
        self._zygote: socket.socket | None = None
        self._cell = cell
        self._scratch = scratch
        self._runners: list[Runner] = []
        self._runner_callbacks = RunnerCallbacks(ready=self._on_ready, kill=self._kill)
        self._changed = asyncio.Event()
        self._fruitless_forks = 0
        self._watcher: asyncio.Task[None] | None = None
        self._stopping = False
        self._over = False

    async def start(self) -> None:
        """Start the zygote and let it load; the callbacks tell how that goes."""
        ours, theirs = pipe.pair()
        ours.setblocking(False)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "edif.executor",
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                env=self._environment,
                cwd="/",
                start_new_session=True,
            )
        self._zygote = ours
        self._loop.add_reader(ours, self._on_zygote)
        self._watcher = asyncio.create_task(self._watch(self._process))
        with contextlib.suppress(pipe.PipeError):  # it has died already, and its watcher tells
            pipe.send(ours, pipe.Load(self.spec, merging=None))

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def run(
        self,
        request: pipe.RunJob,
        fds: Sequence[int],
        job: JobCallbacks,
        cell: CellLimits | None,
        time_limit_s: float,
    ) -> pipe.Done:
        """Run one job, sealed in ``cell`` or shared without one, and wait for its end.

        Args:
            fds: those that ride along with the request.

        Raises:
            TimeoutError: the job ran longer than it may; waiting for its process does not count.
            JobRefused: the executor said that the job failed.
            RunnerDied: its process ended before it answered.
        """
        try:
            async with asyncio.timeout(_TAKE_S):
                runner = await self._take(cell)
        except TimeoutError:
            raise RunnerDied(-signal.SIGKILL, by_its_job=False) from None
        try:
            return await runner.run(request, fds, job, time_limit_s)
        finally:
            if runner.cell is not None or self._cell is not None:
                # What a sealed one still has running ends with its job, and a shared one has no more jobs to come.
                runner.kill()
            runner.taken = runner.cell is not None
            self._fill_soon()

    async def stop(self) -> None:
        """End the whole family."""
        self._stopping = True
        if self._zygote is not None:
            self._loop.remove_reader(self._zygote)
            self._zygote.close()  # the zygote kills its children and leaves
        if self._process is not None:
            try:
                async with asyncio.timeout(_STOP_GRACE_S):
                    await self._process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                await self._process.wait()
        if self._watcher is not None:
            await asyncio.wait([self._watcher])
        self._drop_all()

    # -- the zygote ------------------------------------------------------------------------------------
    def _on_zygote(self) -> None:
        assert self._zygote is not None
        while True:
            try:
                message, fds = pipe.receive(self._zygote, pipe.from_zygote)
            except BlockingIOError:
                return
            except pipe.PipeError:
                self._loop.remove_reader(self._zygote)
                return
            for fd in fds:
                os.close(fd)
            self._hear_zygote(message)

    def _hear_zygote(self, message: msgspec.Struct) -> None:
        match message:
            case pipe.Loading(stage=stage):
                self._callbacks.loading(stage)
            case pipe.Loaded(load_s=load_s, weight_bytes=weight_bytes):
                self.is_ready = True
                self._callbacks.ready(load_s, weight_bytes)
                self._fill(self._cell)
            case pipe.LoadFailed(sentence=sentence):
                self._fail(sentence, died=False)
            case pipe.Forked(pid=pid):
                self._on_forked(pid)
            case pipe.ChildExited(pid=pid, status=status):
                self._on_child_exit(pid, status)
            case _:
                log.warning("replica.unexpected_message", replica=self.id, kind=type(message).__name__)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        status = await process.wait()
        # The group's other members die with the zygote (PR_SET_PDEATHSIG); this is for the odd one out.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        self._drop_all()
        if not self._stopping:
            sentence = f"The process that held model {self.spec.id!r} ended unexpectedly (status {status})."
            self._fail(sentence, died=True)

    def _fail(self, sentence: str, *, died: bool) -> None:
        if not self._over:
            self._over = True
            self.is_ready = False
            self._callbacks.failed(sentence, died)

    # -- the runners -----------------------------------------------------------------------------------
    async def _take(self, cell: CellLimits | None) -> Runner:
        """A clean runner of this kind, taken for one job."""
        if cell != self._cell:
            self._cell = cell
            for other in [each for each in self._runners if each.cell != cell and not each.taken]:
                other.kill()
        while True:
            if self._over or self._stopping:
                raise RunnerDied(-signal.SIGKILL, by_its_job=False)
            self._fill(cell)
            for runner in self._runners:
                if runner.ready and not runner.taken and runner.cell == cell:
                    runner.taken = True
                    runner.ready = False
                    return runner
            self._changed.clear()
            await self._changed.wait()

    def _fill_soon(self) -> None:
        # Not while the job ran, and not before its result is on its way: making the next one takes from both. Unless
        # none is left, for whom the next job would wait.
        if any(each.ready and each.cell == self._cell for each in self._runners):
            self._loop.call_later(_FILL_AFTER_S, lambda: self._fill(self._cell))
        else:
            self._fill(self._cell)

    def _fill(self, cell: CellLimits | None) -> None:
        """See to it that there is one shared runner, or that enough sealed ones are free."""
        if not self.is_ready or self._stopping:
            return
        there = [each for each in self._runners if each.cell == cell and not each.doomed]
        free = [each for each in there if not each.taken]
        lacking = 1 - len(there) if cell is None else _READY_AHEAD - len(free)
        for _ in range(lacking):
            try:
                self._fork_runner(cell)
            except OSError as error:  # no room, or too many open files: what runs is not to suffer from it
                log.error("replica.cannot_fork", replica=self.id, reason=str(error))  # noqa: TRY400
                return

    def _fork_runner(self, cell: CellLimits | None) -> None:
        assert self._zygote is not None
        scratch = None
        if cell is not None:
            scratch = self._scratch / f"{self.id}-{secrets.token_hex(6)}"
            scratch.mkdir(parents=True, mode=0o700)
        ours, theirs = pipe.pair()
        ours.setblocking(False)
        runner = Runner(self.id, ours, cell, scratch, self._runner_callbacks)
        with theirs:
            try:
                pipe.send(self._zygote, pipe.ForkRunner(cell, str(scratch or "")), (theirs.fileno(),))
            except (pipe.PipeError, BlockingIOError):
                runner.discard()
                return
        self._runners.append(runner)
        runner.listen()

    def _on_forked(self, pid: int) -> None:
        # The zygote forks in the order in which it is asked.
        runner = next((each for each in self._runners if each.pid is None), None)
        if runner is not None:
            runner.pid = pid
            if runner.doomed:
                runner.kill()

    def _on_ready(self, runner: Runner) -> None:
        self._fruitless_forks = 0
        if runner.ready:
            self._changed.set()

    def _kill(self, pid: int) -> None:
        if self._zygote is not None:
            with contextlib.suppress(pipe.PipeError, BlockingIOError, OSError):
                pipe.send(self._zygote, pipe.KillChild(pid))

    def _on_child_exit(self, pid: int, status: int) -> None:
        runner = next((each for each in self._runners if each.pid == pid), None)
        if runner is None:
            return
        if not (runner.doomed or runner.was_ready):
            self._fruitless_forks += 1
        self._drop(runner, status, by_its_job=runner.cell is not None)
        if self._fruitless_forks > _RUNNER_ATTEMPTS:
            self._fail(f"The processes that run jobs on model {self.spec.id!r} keep dying.", died=False)
            return
        self._fill(self._cell)

    def _drop_all(self) -> None:
        for runner in list(self._runners):
            self._drop(runner, -signal.SIGKILL, by_its_job=False)
        self._changed.set()

    def _drop(self, runner: Runner, status: int, *, by_its_job: bool) -> None:
        runner.has_died(status, by_its_job=by_its_job)
        self._runners.remove(runner)
        self._changed.set()
