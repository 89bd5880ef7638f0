"""One runner process, seen from the agent: the socket to it, and the job that it has.

Its replica forks it, hands it jobs and hears from the zygote that it has ended; what is said on its socket is heard here.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from edif.walls.memory import Memory, memory_of
from edif.wire import pipe
from edif.wire.link import CellLimits

log = structlog.get_logger()

_MESSAGES_PER_TURN = 64
_MESSAGES_PER_JOB = 10_000


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


class JobRefused(Exception):
    """The executor ended the job with an error; ``failure`` is what it said."""

    def __init__(self, failure: pipe.Failed) -> None:
        super().__init__(failure.code)
        self.failure = failure


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


@dataclass(frozen=True, slots=True)
class RunnerCallbacks:
    """How a runner reaches its replica.

    ``ready`` is called whenever the runner says that it is; whether it may have a job by then is in its ``ready``.
    ``kill`` has the zygote end the process with this id, which must be a child of it.
    """

    ready: Callable[["Runner"], None]
    kill: Callable[[int], None]


class Runner:
    """The socket to one runner process, and the job that it has.

    Args:
        replica_id: the replica that it belongs to, for the log.
        sock: our end of its socket, non-blocking; ours to close from now on.
        cell: that of a sealed one, which serves one job; None for a shared one.
        scratch: the folder of a sealed one; removed with it.
        callbacks: called from the event loop.

    Attributes:
        pid: its process, once the zygote has told.
        ready: whether it is clean and waits for a job.
        was_ready: whether it ever was.
        taken: whether it is set aside for one job; the replica sets it.
        doomed: whether we have no more use for it.
    """

    def __init__(
        self,
        replica_id: str,
        sock: socket.socket,
        cell: CellLimits | None,
        scratch: Path | None,
        callbacks: RunnerCallbacks,
    ) -> None:
        self.cell = cell
        self.pid: int | None = None
        self.ready = False
        self.was_ready = False
        self.taken = False
        self.doomed = False
        self._replica_id = replica_id
        self._sock = sock
        self._scratch = scratch
        self._callbacks = callbacks
        self._loop = asyncio.get_running_loop()
        self._heard = 0
        self._job: JobCallbacks | None = None
        self._answer: asyncio.Future[pipe.Done | pipe.Failed] | None = None

    def listen(self) -> None:
        """Hear what it says from now on, until :meth:`has_died`."""
        self._loop.add_reader(self._sock, self._hear)

    async def run(
        self, request: pipe.RunJob, fds: Sequence[int], job: JobCallbacks, time_limit_s: float
    ) -> pipe.Done:
        """Run one job and wait for its end. A job that is cancelled or runs too long takes the process with it.

        Args:
            fds: those that ride along with the request.

        Raises:
            TimeoutError: the job ran longer than it may.
            JobRefused: the executor said that the job failed.
            RunnerDied: the process ended before it answered.
        """
        self._heard = 0
        self._job = job
        self._answer = self._loop.create_future()
        began, before = time.monotonic(), self.memory().own
        try:
            try:
                pipe.send(self._sock, request, fds)
            except (pipe.PipeError, BlockingIOError):
                raise RunnerDied(-signal.SIGKILL, by_its_job=False) from None
            async with asyncio.timeout(time_limit_s):
                answer = await self._answer
        except (asyncio.CancelledError, TimeoutError):
            self.kill()
            raise
        finally:
            job.spent(time.monotonic() - began, max(self.memory().most_own - before, 0))
            self._job = None
            self._answer = None
        if isinstance(answer, pipe.Failed):
            raise JobRefused(answer)
        return answer

    def memory(self) -> Memory:
        return Memory() if self.pid is None else memory_of(self.pid)

    def kill(self) -> None:
        """End a runner that is no longer wanted. One that is not forked yet is to be killed again when it is."""
        self.ready = False
        self.doomed = True
        self._send_kill()

    def has_died(self, status: int, *, by_its_job: bool) -> None:
        """Its process has ended, or will be heard no more. The job that waits for an answer gets :class:`RunnerDied`."""
        self._hear(_MESSAGES_PER_JOB)  # the exit may be heard before the answer that was sent just before it
        self._loop.remove_reader(self._sock)
        self.discard()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(RunnerDied(status, by_its_job=by_its_job))

    def discard(self) -> None:
        """Give back what it held here: its socket and its scratch folder."""
        self._sock.close()
        if self._scratch is not None:
            with contextlib.suppress(RecursionError):  # folders made deeper than Python can count
                shutil.rmtree(self._scratch, ignore_errors=True)

    def _send_kill(self) -> None:
        if self.pid is not None:
            self._callbacks.kill(self.pid)

    # -- what it says ----------------------------------------------------------------------------------
    def _hear(self, most: int = _MESSAGES_PER_TURN) -> None:
        # Some at a time: who sends faster than we read must not keep us from everything else.
        for _ in range(most):
            if self._sock.fileno() < 0:
                return
            try:
                message, fds = pipe.receive(self._sock, pipe.from_runner)
            except BlockingIOError:
                return
            except pipe.PipeError:
                self._loop.remove_reader(self._sock)
                self.ready = False
                self._send_kill()  # it is gone already, or says what no runner of ours says
                return
            for fd in fds:
                os.close(fd)
            self._heard += 1
            if self._heard > _MESSAGES_PER_JOB:
                self._send_kill()  # ours says a few hundred things at most
            else:
                self._understand(message)

    def _understand(self, message: pipe.FromRunner) -> None:
        match message:
            case pipe.Ready():
                self._on_ready()
            case pipe.Tainted(reason=reason):
                self._on_tainted(reason)
            case pipe.Log() | pipe.Saving() | pipe.Keep():
                if self._job is not None:
                    self._hear_of_job(self._job, message)
            case pipe.Done() | pipe.Failed():
                if self._answer is not None and not self._answer.done():
                    self._answer.set_result(message)

    def _on_ready(self) -> None:
        self.was_ready = True
        if (self._answer is None or self._answer.done()) and not self.doomed:
            self.ready = True
        self._callbacks.ready(self)

    def _on_tainted(self, reason: str) -> None:
        """A shared runner that cannot be put back as it was; a sealed one has no reason to say so."""
        if self.cell is None and not self.doomed:
            log.warning("replica.runner_replaced", replica=self._replica_id, reason=reason)
        self.kill()

    def _hear_of_job(self, job: JobCallbacks, message: pipe.Log | pipe.Saving | pipe.Keep) -> None:
        match message:
            case pipe.Log(text=text):
                job.log(text)
            case pipe.Saving():
                job.saving()
            case pipe.Keep():
                self._make_room(job)

    def _make_room(self, job: JobCallbacks) -> None:
        try:
            fd = job.room()
        except OSError as error:  # it has asked before, which ours does not, or the disk takes no more files
            log.warning("replica.no_room", replica=self._replica_id, reason=str(error))
            self.kill()
            return
        try:
            pipe.send(self._sock, pipe.Room(), (fd,))
        except (pipe.PipeError, BlockingIOError):
            self.kill()
        finally:
            os.close(fd)
