"""One replica, seen from the agent: a process family behind two pipes.

The agent starts the zygote with an empty environment and one inherited socket, waits until it holds the
model, has it fork a runner, and hands that runner one job at a time. A runner that dies or says that it is
spoiled is replaced by a new fork; the zygote's own death ends the replica.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import structlog

from edif.wire import pipe
from edif.wire.link import ModelSpec

log = structlog.get_logger()

# What the model libraries need to find their files; nothing else of the agent's environment is passed on.
_PASSED_ENVIRONMENT = ("PATH", "HOME", "LANG", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "LD_LIBRARY_PATH")
_STOP_GRACE_S = 5.0
_RUNNER_ATTEMPTS = 5


class RunnerDied(Exception):
    """The runner's process ended while it had a job. ``status`` is its exit code, or minus a signal."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status

    @property
    def sentence(self) -> str:
        if self.status == -signal.SIGKILL:
            return "The process that ran the job was killed, most likely because the node ran out of memory."
        if self.status < 0:
            return f"The process that ran the job died of signal {signal.Signals(-self.status).name}."
        return f"The process that ran the job exited with code {self.status}."


@dataclass(frozen=True, slots=True)
class ReplicaCallbacks:
    """How a replica tells its agent what happens to it."""

    loading: Callable[[str], None]
    ready: Callable[[float, int], None]
    failed: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class JobCallbacks:
    log: Callable[[str], None]
    saving: Callable[[], None]


class _Runner:
    """The socket to one runner process, and the job that it has."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pid: int | None = None
        self.ready = asyncio.Event()
        self.answer: asyncio.Future[pipe.Done | pipe.Failed] | None = None
        self.job: JobCallbacks | None = None
        self.kill_when_forked = False


class Replica:
    """Starts, watches and feeds one process family.

    Args:
        replica_id: its name on the link.
        spec: what it loads.
        callbacks: called from the event loop, never after :meth:`stop` has returned.
        environment: the agent's environment; only the few names that loading needs are passed on.
    """

    def __init__(
        self, replica_id: str, spec: ModelSpec, callbacks: ReplicaCallbacks, environment: dict[str, str]
    ) -> None:
        self.id = replica_id
        self.spec = spec
        self.is_ready = False
        self._callbacks = callbacks
        self._environment = {name: environment[name] for name in _PASSED_ENVIRONMENT if name in environment}
        self._loop = asyncio.get_running_loop()
        self._process: asyncio.subprocess.Process | None = None
        self._zygote: socket.socket | None = None
        self._runner: _Runner | None = None
        self._runner_changed = asyncio.Event()
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
        pipe.send(ours, pipe.Load(self.spec))
        self._watcher = asyncio.create_task(self._watch(self._process))

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def run(
        self, request: pipe.RunJob, payload_fd: int, result_fd: int, job: JobCallbacks
    ) -> pipe.Done:
        """Run one job and wait for its end.

        Raises:
            JobRefused: the executor said that the job failed.
            RunnerDied: its process ended before it answered.
        """
        runner = await self._ready_runner()
        runner.job = job
        runner.answer = self._loop.create_future()
        runner.ready.clear()
        try:
            try:
                pipe.send(runner.sock, request, (payload_fd, result_fd))
            except (pipe.PipeError, BlockingIOError):
                raise RunnerDied(-signal.SIGKILL) from None
            answer = await runner.answer
        except asyncio.CancelledError:
            self._kill(runner)
            raise
        finally:
            runner.job = None
            runner.answer = None
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
        self._drop_runner(-signal.SIGKILL)

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
                self._fork_runner()
                self._callbacks.ready(load_s, weight_bytes)
            case pipe.LoadFailed(sentence=sentence):
                self._fail(sentence)
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
        self._drop_runner(-signal.SIGKILL)
        if not self._stopping:
            self._fail(f"The process that held model {self.spec.id!r} ended unexpectedly (status {status}).")

    def _fail(self, sentence: str) -> None:
        if not self._over:
            self._over = True
            self.is_ready = False
            self._callbacks.failed(sentence)

    # -- the runner ------------------------------------------------------------------------------------
    def _fork_runner(self) -> None:
        assert self._zygote is not None
        ours, theirs = pipe.pair()
        ours.setblocking(False)
        self._runner = _Runner(ours)
        with theirs:
            try:
                pipe.send(self._zygote, pipe.ForkRunner(), (theirs.fileno(),))
            except (pipe.PipeError, BlockingIOError):
                ours.close()
                self._runner = None
                return
        self._loop.add_reader(ours, self._on_runner, self._runner)
        self._runner_changed.set()

    async def _ready_runner(self) -> _Runner:
        while True:
            runner = self._runner
            if runner is None:
                if self._over or self._stopping:
                    raise RunnerDied(-signal.SIGKILL)
                self._runner_changed.clear()
                await self._runner_changed.wait()
                continue
            await runner.ready.wait()
            if runner is self._runner:
                return runner

    def _on_forked(self, pid: int) -> None:
        if self._runner is not None and self._runner.pid is None:
            self._runner.pid = pid
            if self._runner.kill_when_forked:
                self._kill(self._runner)

    def _kill(self, runner: _Runner) -> None:
        if runner.pid is None:
            runner.kill_when_forked = True
        elif self._zygote is not None:
            with contextlib.suppress(pipe.PipeError, BlockingIOError, OSError):
                pipe.send(self._zygote, pipe.KillChild(runner.pid))
        runner.ready.clear()

    def _on_child_exit(self, pid: int, status: int) -> None:
        if self._runner is None or self._runner.pid != pid:
            return
        self._fruitless_forks += 1
        self._drop_runner(status)
        if self._fruitless_forks > _RUNNER_ATTEMPTS:
            self._fail(f"The processes that run jobs on model {self.spec.id!r} keep dying.")
            return
        self._fork_runner()

    def _drop_runner(self, status: int) -> None:
        runner, self._runner = self._runner, None
        if runner is None:
            self._runner_changed.set()
            return
        self._read_last_words(runner)
        self._loop.remove_reader(runner.sock)
        runner.sock.close()
        if runner.answer is not None and not runner.answer.done():
            runner.answer.set_exception(RunnerDied(status))
        runner.ready.set()  # whoever waits looks for the next runner
        self._runner_changed.set()

    def _read_last_words(self, runner: _Runner) -> None:
        """The exit may be heard before the answer that was sent just before it."""
        if runner.sock.fileno() >= 0:
            self._on_runner(runner)

    def _on_runner(self, runner: _Runner) -> None:
        while True:
            try:
                message, fds = pipe.receive(runner.sock, pipe.from_runner)
            except BlockingIOError:
                return
            except pipe.PipeError:
                self._loop.remove_reader(runner.sock)
                return
            for fd in fds:
                os.close(fd)
            self._hear_runner(runner, message)

    def _hear_runner(self, runner: _Runner, message: pipe.FromRunner) -> None:
        answer = runner.answer
        match message:
            case pipe.Ready():
                self._fruitless_forks = 0
                if answer is None or answer.done():
                    runner.ready.set()
            case pipe.Tainted(reason=reason):
                log.warning("replica.runner_replaced", replica=self.id, reason=reason)
            case pipe.Log(text=text):
                if runner.job is not None:
                    runner.job.log(text)
            case pipe.Saving():
                if runner.job is not None:
                    runner.job.saving()
            case pipe.Done() | pipe.Failed():
                if answer is not None and not answer.done():
                    answer.set_result(message)


class JobRefused(Exception):
    """The executor ended the job with an error; ``failure`` is what it said."""

    def __init__(self, failure: pipe.Failed) -> None:
        super().__init__(failure.code)
        self.failure = failure
