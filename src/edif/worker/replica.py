"""One replica, seen from the agent: a process family behind pipes.

The agent starts the zygote with an empty environment and one inherited socket, waits until it holds the
model, has it fork runners, and hands them jobs. A shared runner serves many jobs; one that dies or
says that it is spoiled is replaced by a new fork. A sealed one serves one job in a cell and is killed after it;
the next stands ready by then. The zygote's own death ends the replica.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from edif.wire import pipe
from edif.wire.link import CellLimits, Merging, ModelSpec
from edif.worker.conversations import JobCallbacks
from edif.worker.environment import environment_from
from edif.worker.forks import Forks
from edif.worker.pool import Pool

log = structlog.get_logger()

_STOP_GRACE_S = 5.0


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
        merging: how traces of several jobs are merged; None: nothing ever is.
    """

    def __init__(
        self,
        replica_id: str,
        spec: ModelSpec,
        callbacks: ReplicaCallbacks,
        environment: dict[str, str],
        cell: CellLimits | None,
        scratch: Path,
        merging: Merging | None = None,
    ) -> None:
        self.id = replica_id
        self.spec = spec
        self.is_ready = False
        self._callbacks = callbacks
        self._environment = environment_from(environment)
        self._loop = asyncio.get_running_loop()
        self._process: asyncio.subprocess.Process | None = None
        self._zygote: socket.socket | None = None
        self._merging = merging
        self._forks = Forks(self._tell_zygote)
        self._pool = Pool(
            replica_id,
            cell,
            scratch,
            self._forks,
            lambda: self._fail(f"The processes that run jobs on model {spec.id!r} keep dying.", died=False),
            one_at_a_time=spec.on_device,
        )
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
            pipe.send(ours, pipe.Load(self.spec, self._merging))

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
        *,
        alone: bool = False,
    ) -> pipe.Done:
        """Run one job, sealed in ``cell`` or shared without one, and wait for its end.

        If the replica does not merge, neither does the job, whatever the request says.

        Args:
            fds: those that ride along with the request.
            alone: whether no other job may be in its process meanwhile.

        Raises:
            TimeoutError: the job ran longer than it may; waiting for its process does not count.
            JobRefused: the executor said that the job failed.
            AskedAlone: it is to be run again without merging.
            RunnerDied: its process ended before it answered.
            Disturbed: so it did, while it had several jobs, and not because of this one.
        """
        runner = await self._pool.take(cell, alone=alone)
        try:
            if self._pool.merging is None:
                request = msgspec.structs.replace(request, merge=False)
            return await runner.run(request, fds, job, time_limit_s, alone=alone)
        finally:
            self._pool.give_back(runner)

    async def stop(self) -> None:
        """End the whole family."""
        self._stopping = True
        self._pool.close()
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

    def _drop_all(self) -> None:
        self._pool.close()
        self._forks.drop_all()

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
                self._pool.open()
            case pipe.Mergeable():
                self._on_mergeable(message)
            case pipe.LoadFailed(sentence=sentence):
                self._fail(sentence, died=False)
            case pipe.Forked(pid=pid):
                self._forks.forked(pid)
            case pipe.ChildExited(pid=pid, status=status):
                self._forks.exited(pid, status)
            case _:
                log.warning("replica.unexpected_message", replica=self.id, kind=type(message).__name__)

    def _on_mergeable(self, said: pipe.Mergeable) -> None:
        log.info("replica.mergeable", replica=self.id, **msgspec.structs.asdict(said))
        if not (said.why_not or self.is_ready):  # after that, runners are there that know nothing of it
            self._pool.merging = self._merging

    def _tell_zygote(self, message: msgspec.Struct, fds: Sequence[int]) -> None:
        if self._zygote is None:
            raise pipe.PipeError("there is no zygote")
        try:
            pipe.send(self._zygote, message, fds)
        except BlockingIOError:
            raise pipe.PipeError("the zygote does not read") from None

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
            self._pool.close()
            self._callbacks.failed(sentence, died)
