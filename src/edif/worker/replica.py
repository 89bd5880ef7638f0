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
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from edif.core.limits import MIB
from edif.walls.memory import Memory, memory_of
from edif.wire import pipe
from edif.wire.link import CellLimits, ModelSpec

log = structlog.get_logger()

# What the model libraries need to find their files; nothing else of the agent's environment is passed on.
_PASSED_ENVIRONMENT = ("PATH", "HOME", "LANG", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "LD_LIBRARY_PATH")
_ADDED_ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # An OpenMP thread that has nothing to do waits some microseconds and then sleeps. By default it keeps its
    # processor for 10 ms and more; where another job wants that, both take ten times as long.
    "GOMP_SPINCOUNT": "1000",
    # Free memory up to so much stays with the process: a pass allocates what the last one has just given back.
    "GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={32 * MIB}:glibc.malloc.trim_threshold={64 * MIB}",
}
_STOP_GRACE_S = 5.0
_RUNNER_ATTEMPTS = 5
_MESSAGES_PER_TURN = 64
_MESSAGES_PER_JOB = 10_000
_FILL_AFTER_S = 0.025
_TAKE_S = 300.0
"""Waiting for a runner takes milliseconds, or as long as the zygote is busy with its preparations."""
_READY_AHEAD = 2
"""Sealed runners that stand ready: making one takes longer than a small job."""


class RunnerDied(Exception):
    """The process ended while it had a job.

    Attributes:
        status: its exit code, or minus the signal that ended it.
        by_its_job: whether only the job itself can have brought that about.
    """

    def __init__(self, status: int, *, by_its_job: bool) -> None:
        super().__init__(status)
        self.status = status
        self.by_its_job = by_its_job

    @property
    def sentence(self) -> str:
        if self.status == -signal.SIGKILL:
            return "The process that ran the job was killed, most likely because the node ran out of memory."
        if self.status < 0:
            return f"The process that ran the job died of signal {_signal_name(-self.status)}."
        return f"The process that ran the job exited with code {self.status}."


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # the real-time signals have none
        return str(number)


@dataclass(frozen=True, slots=True)
class ReplicaCallbacks:
    """How a replica tells its agent what happens to it.

    ``failed`` is given a sentence, and whether the process died without saying what stood against it.
    """

    loading: Callable[[str], None]
    ready: Callable[[float, int], None]
    failed: Callable[[str, bool], None]


@dataclass(frozen=True, slots=True)
class JobCallbacks:
    """How a job's attempt hears of it. ``spent`` is called once, however it ends, if it came to begin.

    It is given the wall seconds in the job's process, and the most memory, in bytes, that the job had of its own there.
    ``room`` opens the file for what the job keeps, and answers the descriptor; an OSError says that it may not, or cannot.
    """

    log: Callable[[str], None]
    saving: Callable[[], None]
    room: Callable[[], int]
    spent: Callable[[float, int], None]


class _Runner:
    """The socket to one runner process, and the job that it has.

    ``cell`` and ``scratch`` are those of a sealed one, which serves one job. ``taken`` is set while a job has it,
    ``doomed`` once we have no more use for it.
    """

    def __init__(self, sock: socket.socket, cell: CellLimits | None, scratch: Path | None) -> None:
        self.sock = sock
        self.cell = cell
        self.scratch = scratch
        self.pid: int | None = None
        self.heard = 0
        self.ready = False
        self.was_ready = False
        self.taken = False
        self.answer: asyncio.Future[pipe.Done | pipe.Failed] | None = None
        self.job: JobCallbacks | None = None
        self.doomed = False

    def memory(self) -> Memory:
        return Memory() if self.pid is None else memory_of(self.pid)


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
        passed = {name: environment[name] for name in _PASSED_ENVIRONMENT if name in environment}
        self._environment = passed | _ADDED_ENVIRONMENT
        self._loop = asyncio.get_running_loop()
        self._process: asyncio.subprocess.Process | None = None
        self._zygote: socket.socket | None = None
        self._cell = cell
        self._scratch = scratch
        self._runners: list[_Runner] = []
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
        runner.heard = 0
        runner.job = job
        runner.answer = self._loop.create_future()
        began, before = time.monotonic(), runner.memory().own
        try:
            try:
                pipe.send(runner.sock, request, fds)
            except (pipe.PipeError, BlockingIOError):
                raise RunnerDied(-signal.SIGKILL, by_its_job=False) from None
            async with asyncio.timeout(time_limit_s):
                answer = await runner.answer
        except (asyncio.CancelledError, TimeoutError):
            self._kill(runner)
            raise
        finally:
            job.spent(time.monotonic() - began, max(runner.memory().most_own - before, 0))
            runner.job = None
            runner.answer = None
            if runner.cell is not None or self._cell is not None:
                # What a sealed one still has running ends with its job, and a shared one has no more jobs to come.
                self._kill(runner)
            runner.taken = runner.cell is not None
            self._fill_soon()
        if isinstance(answer, pipe.Failed):
            raise JobRefused(answer)
        return answer

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
    async def _take(self, cell: CellLimits | None) -> _Runner:
        """A clean runner of this kind, taken for one job."""
        if cell != self._cell:
            self._cell = cell
            for other in [each for each in self._runners if each.cell != cell and not each.taken]:
                self._kill(other)
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
        runner = _Runner(ours, cell, scratch)
        with theirs:
            try:
                pipe.send(self._zygote, pipe.ForkRunner(cell, str(scratch or "")), (theirs.fileno(),))
            except (pipe.PipeError, BlockingIOError):
                self._discard(runner)
                return
        self._runners.append(runner)
        self._loop.add_reader(ours, self._on_runner, runner)

    def _on_forked(self, pid: int) -> None:
        # The zygote forks in the order in which it is asked.
        runner = next((each for each in self._runners if each.pid is None), None)
        if runner is not None:
            runner.pid = pid
            if runner.doomed:
                self._kill(runner)

    def _kill(self, runner: _Runner) -> None:
        """End a runner that is no longer wanted."""
        runner.ready = False
        runner.doomed = True
        self._send_kill(runner)

    def _send_kill(self, runner: _Runner) -> None:
        if runner.pid is not None and self._zygote is not None:
            with contextlib.suppress(pipe.PipeError, BlockingIOError, OSError):
                pipe.send(self._zygote, pipe.KillChild(runner.pid))

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

    def _drop(self, runner: _Runner, status: int, *, by_its_job: bool) -> None:
        self._on_runner(
            runner, _MESSAGES_PER_JOB
        )  # the exit may be heard before the answer that was sent just before it
        self._loop.remove_reader(runner.sock)
        self._runners.remove(runner)
        self._discard(runner)
        if runner.answer is not None and not runner.answer.done():
            runner.answer.set_exception(RunnerDied(status, by_its_job=by_its_job))
        self._changed.set()

    @staticmethod
    def _discard(runner: _Runner) -> None:
        runner.sock.close()
        if runner.scratch is not None:
            with contextlib.suppress(RecursionError):  # folders made deeper than Python can count
                shutil.rmtree(runner.scratch, ignore_errors=True)

    def _on_runner(self, runner: _Runner, most: int = _MESSAGES_PER_TURN) -> None:
        # Some at a time: who sends faster than we read must not keep us from everything else.
        for _ in range(most):
            if runner.sock.fileno() < 0:
                return
            try:
                message, fds = pipe.receive(runner.sock, pipe.from_runner)
            except BlockingIOError:
                return
            except pipe.PipeError:
                self._loop.remove_reader(runner.sock)
                runner.ready = False
                self._send_kill(runner)  # it is gone already, or says what no runner of ours says
                return
            for fd in fds:
                os.close(fd)
            runner.heard += 1
            if runner.heard > _MESSAGES_PER_JOB:
                self._send_kill(runner)  # ours says a few hundred things at most
            else:
                self._hear_runner(runner, message)

    def _hear_tainted(self, runner: _Runner, reason: str) -> None:
        """A shared runner that cannot be put back as it was; a sealed one has no reason to say so."""
        if runner.cell is None and not runner.doomed:
            log.warning("replica.runner_replaced", replica=self.id, reason=reason)
        self._kill(runner)

    def _hear_of_job(
        self, runner: _Runner, job: JobCallbacks, message: pipe.Log | pipe.Saving | pipe.Keep
    ) -> None:
        match message:
            case pipe.Log(text=text):
                job.log(text)
            case pipe.Saving():
                job.saving()
            case pipe.Keep():
                self._make_room(runner, job)

    def _make_room(self, runner: _Runner, job: JobCallbacks) -> None:
        try:
            fd = job.room()
        except OSError as error:  # it has asked before, which ours does not, or the disk takes no more files
            log.warning("replica.no_room", replica=self.id, reason=str(error))
            self._kill(runner)
            return
        try:
            pipe.send(runner.sock, pipe.Room(), (fd,))
        except (pipe.PipeError, BlockingIOError):
            self._kill(runner)
        finally:
            os.close(fd)

    def _hear_runner(self, runner: _Runner, message: pipe.FromRunner) -> None:
        answer = runner.answer
        match message:
            case pipe.Ready():
                self._fruitless_forks = 0
                runner.was_ready = True
                if (answer is None or answer.done()) and not runner.doomed:
                    runner.ready = True
                    self._changed.set()
            case pipe.Tainted(reason=reason):
                self._hear_tainted(runner, reason)
            case pipe.Log() | pipe.Saving() | pipe.Keep():
                if runner.job is not None:
                    self._hear_of_job(runner, runner.job, message)
            case pipe.Done() | pipe.Failed():
                if answer is not None and not answer.done():
                    answer.set_result(message)


class JobRefused(Exception):
    """The executor ended the job with an error; ``failure`` is what it said."""

    def __init__(self, failure: pipe.Failed) -> None:
        super().__init__(failure.code)
        self.failure = failure
