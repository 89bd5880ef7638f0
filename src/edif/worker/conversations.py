"""What a runner and the agent say to each other about one job, from its request to its answer."""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from edif.wire import pipe
from edif.worker.endings import AskedAlone, JobRefused
from edif.worker.lines import Line

log = structlog.get_logger()

Answer = pipe.Done | pipe.Failed | pipe.RunAlone


@dataclass(frozen=True, slots=True)
class JobCallbacks:
    """How a job's attempt hears of it. ``spent`` is called once for each try that came to begin, however it ends.

    It is given the wall seconds in the job's process, and the most memory, in bytes, that the process had of its own more
    than when the job came to it. ``room`` opens the file for what the job keeps, and answers the descriptor; an OSError says
    that it may not, or cannot. ``shared`` is called for each forward pass that it shared with others.
    """

    log: Callable[[str], None]
    saving: Callable[[], None]
    room: Callable[[], int]
    shared: Callable[[pipe.Shared], None]
    spent: Callable[[float, int], None]


class Conversation:
    """One job in a runner, until it is answered.

    Args:
        job: who hears of it.
        spoil: ends the runner, which does what ours does not.
        alone: whether no other job may be in that runner meanwhile.

    Attributes:
        answer: how it ended, or the exception that says why it never will.
        began: when its time began to run, a time of the monotonic clock; None before.
        turn: done when it has begun, or is answered without.
    """

    def __init__(self, job: JobCallbacks, spoil: Callable[[], None], *, alone: bool) -> None:
        self.job = job
        self.alone = alone
        self.began: float | None = None
        loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Answer] = loop.create_future()
        self.turn: asyncio.Future[None] = loop.create_future()
        self._spoil = spoil

    def begin(self) -> None:
        if self.began is None:
            self.began = time.monotonic()
        if not self.turn.done():
            self.turn.set_result(None)

    def fail(self, error: Exception) -> None:
        """No answer will come."""
        if not self.answer.done():
            self.answer.set_exception(error)
        if not self.turn.done():
            self.turn.set_result(None)

    def close(self) -> None:
        """It is over: nobody waits any more."""
        self.answer.cancel()
        self.turn.cancel()
        if self.answer.done() and not self.answer.cancelled():
            self.answer.exception()  # so that it counts as seen

    def outcome(self) -> pipe.Done:
        """The answer that has come.

        Raises:
            JobRefused: the job failed.
            AskedAlone: it is to be run again.
            RunnerDied, Disturbed: none will come.
        """
        match self.answer.result():
            case pipe.Failed() as failure:
                raise JobRefused(failure)
            case pipe.RunAlone(reason=reason):
                raise AskedAlone(reason)
            case pipe.Done() as done:
                return done

    def understand(self, message: Any, line: Line[Any]) -> None:
        """Something was said about this job on ``line``. What comes after its answer is not heard."""
        if self.answer.done():
            return
        match message:
            case pipe.Log(text=text):
                self.job.log(text)
            case pipe.Saving():
                self.job.saving()
            case pipe.Keep():
                self._make_room(line)
            case pipe.Done() | pipe.Failed() | pipe.RunAlone():
                self.answer.set_result(message)
                if not self.turn.done():
                    self.turn.set_result(None)

    def _make_room(self, line: Line[Any]) -> None:
        try:
            fd = self.job.room()
        except OSError as error:  # it has asked before, which ours does not, or the disk takes no more files
            log.warning("replica.no_room", reason=str(error))
            self._spoil()
            return
        try:
            line.send(pipe.Room(), (fd,))
        except pipe.PipeError:
            self._spoil()
        finally:
            os.close(fd)
