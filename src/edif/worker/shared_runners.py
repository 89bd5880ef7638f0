"""A shared runner: a process that serves many jobs, each on a socket of its own, and several at once if traces are merged."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any

import structlog

from edif.wire import pipe, turn_register
from edif.worker.conversations import Conversation, JobCallbacks
from edif.worker.endings import Disturbed, RunnerDied
from edif.worker.lines import Line
from edif.worker.processes import ProcessCallbacks
from edif.worker.runners import Runner
from edif.worker.turn_watch import TurnWatch

log = structlog.get_logger()

_MESSAGES_PER_JOB = 200_000
"""Ours says a few hundred things, and one more for each shared forward pass, of which a session may have many."""
_BEGINS_WITHIN_S = 60.0
"""A job that nobody is in the way of begins as soon as the last one is cleared away."""

_COLLECTS_S = 0.02
"""From the first job of a batch on it waits so long for others, about: how long exactly it knows alone."""


class SharedRunner(Runner):
    """One process that jobs share.

    Args:
        most_jobs: so many it takes at once.
        turn_fd: its turn register; ours to close from now on.
    """

    def __init__(
        self, replica_id: str, sock: socket.socket, most_jobs: int, turn_fd: int, callbacks: ProcessCallbacks
    ) -> None:
        super().__init__(replica_id, sock, None, callbacks, _MESSAGES_PER_JOB)
        self._most_jobs = most_jobs
        self._ready = False
        self._collecting_since: float | None = None
        self._turn_fd = turn_fd
        self._had_turn = turn_register.NOBODY
        self._watch = TurnWatch(lambda: turn_register.read(turn_fd), self._on_overdue)
        self._overdue: int | None = None
        """The number of the job because of which it was ended, which had kept the others for too long."""
        self._entered = 0
        self._jobs: list[Conversation] = []
        self._numbers: dict[Conversation, int] = {}
        self._lines: dict[Conversation, Line[Any]] = {}
        self._not_by_those_left = False
        """Whether it was ended because of a job that is in it no more."""

    def may_take(self, *, alone: bool) -> bool:
        if not self._ready or self.doomed or self.held_alone:
            return False
        return self.held == 0 if alone else self.held < self._most_jobs

    @property
    def collects(self) -> bool:
        since = self._collecting_since
        return self.held > 0 and since is not None and time.monotonic() - since < _COLLECTS_S

    def take(self, *, alone: bool) -> None:
        super().take(alone=alone)
        if self._collecting_since is None:
            self._collecting_since = time.monotonic()

    async def run(
        self,
        request: pipe.RunJob,
        fds: Sequence[int],
        job: JobCallbacks,
        time_limit_s: float,
        *,
        alone: bool = False,
    ) -> pipe.Done:
        before = self.memory().own
        conversation = self._enter(request, fds, job, alone=alone)
        try:
            await self._turn_of(conversation, time_limit_s)
            async with asyncio.timeout(time_limit_s):
                await asyncio.wait({conversation.answer})
            return conversation.outcome()
        except (asyncio.CancelledError, TimeoutError):
            self._withdraw(conversation)
            raise
        finally:
            self._jobs.remove(conversation)
            self._watch.several(len(self._jobs) > 1)
            del self._numbers[conversation]
            self._lines.pop(conversation).close()
            conversation.close()
            if conversation.began is not None:
                job.spent(time.monotonic() - conversation.began, max(self.memory().most_own - before, 0))

    def _enter(
        self, request: pipe.RunJob, fds: Sequence[int], job: JobCallbacks, *, alone: bool
    ) -> Conversation:
        ours, theirs = pipe.pair()
        conversation = Conversation(job, self.kill, alone=alone)
        line = Line[Any](
            ours,
            pipe.from_runner,
            lambda message: self._hear_of(conversation, message),
            # Its end is closed when the job is answered.
            lambda: None if conversation.answer.done() else self._on_broken(),
            _MESSAGES_PER_JOB,
        )
        self.line.count_anew()
        if self._most_jobs == 1:
            self._ready = False  # until it has been put back as it was
        self._jobs.append(conversation)
        self._entered += 1
        self._numbers[conversation] = self._entered
        self._lines[conversation] = line
        self._watch.several(len(self._jobs) > 1)
        with theirs:
            try:
                self.line.send(pipe.Enter(), (theirs.fileno(),))
                line.send(request, fds)
            except pipe.PipeError:
                self.kill()  # its death, which is to come, ends this job too
                if self.dead:
                    conversation.fail(Disturbed(begun=False, suspect=False))
        line.listen()
        return conversation

    async def _turn_of(self, conversation: Conversation, time_limit_s: float) -> None:
        """Wait until the job has begun, or has ended without. As long as others run, their time limits bound that.

        Raises:
            RunnerDied: it does not begin though no other job is in its way.
        """
        while not conversation.turn.done():
            await asyncio.wait({conversation.turn}, timeout=max(time_limit_s, _BEGINS_WITHIN_S))
            others = (each for each in self._jobs if each is not conversation)
            if not conversation.turn.done() and not any(each.began for each in others):
                self._not_by_those_left = True
                self.kill()
                raise RunnerDied(-signal.SIGKILL, by_its_job=False)

    def _withdraw(self, conversation: Conversation) -> None:
        """End a job. If its turn has not come it never will: who cannot say that it begins does not begin."""
        conversation.close()
        self._lines[conversation].hush()
        if conversation.began is not None:
            self._not_by_those_left = True
            self.kill()

    def _on_overdue(self, number: int) -> None:
        log.warning("replica.turn_overdue", replica=self._replica_id, jobs=len(self._jobs))
        self._overdue = number
        self.kill()

    def discard(self) -> None:
        super().discard()
        self._watch.close()
        self._had_turn = turn_register.read(self._turn_fd).number
        os.close(self._turn_fd)

    def _tell(self, status: int, *, with_all: bool) -> None:
        for line in self._lines.values():
            line.drain()
        waiting = [each for each in self._jobs if not each.answer.done()]
        several = self._not_by_those_left or self._overdue is not None or len(waiting) > 1
        suspects = self._suspects(waiting)
        for conversation in waiting:
            begun = conversation.began is not None
            if with_all or not several or (conversation.alone and begun):
                conversation.fail(RunnerDied(status, by_its_job=False))
            else:
                conversation.fail(Disturbed(begun=begun, suspect=conversation in suspects))

    def _suspects(self, waiting: Sequence[Conversation]) -> list[Conversation]:
        """Which of them may have ended the process: the one that had the turn; all that have begun if that is none of them, unless
        somebody is known to have who is not there any more."""
        begun = [each for each in waiting if each.began is not None]
        # Whose turn it is at its death may be another's by then.
        number = self._had_turn if self._overdue is None else self._overdue
        had_turn = [each for each in begun if self._numbers[each] == number]
        return had_turn or ([] if self._not_by_those_left else begun)

    def _hear_of(self, conversation: Conversation, message: Any) -> None:
        match message:
            case pipe.Begun():
                conversation.begin()
            case pipe.Shared():
                if not conversation.answer.done():
                    conversation.job.shared(message)
            case _:
                conversation.understand(message, self._lines[conversation])

    def _understand(self, message: Any) -> None:
        match message:
            case pipe.Ready():
                self.was_ready = True
                for line in list(
                    self._lines.values()
                ):  # what it said of its jobs before this may not be heard yet
                    line.drain()
                waiting = any(not each.answer.done() for each in self._jobs)
                self._ready = self._most_jobs > 1 or not waiting
                self._collecting_since = time.monotonic() if waiting else None
                self._callbacks.ready()
            case pipe.Tainted(reason=reason):
                if not self.doomed:
                    log.warning("replica.runner_replaced", replica=self._replica_id, reason=reason)
                # Of one that has not begun: an earlier job left that.
                self._not_by_those_left = self._not_by_those_left or not any(
                    each.began and not each.answer.done() for each in self._jobs
                )
                self.kill()
            case _:
                pass  # of a job it speaks on that one's socket
