"""The runners of a replica: which job gets which, and how many are there or being made."""

import asyncio
import os
import secrets
import signal
import socket
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import structlog

from edif.wire import pipe, turn_register
from edif.wire.link import CellLimits, Merging
from edif.worker import shared_stock
from edif.worker.driving import Driving
from edif.worker.endings import RunnerDied
from edif.worker.forks import Forks
from edif.worker.processes import Process, ProcessCallbacks
from edif.worker.runners import Runner
from edif.worker.sealed_runners import SealedRunner
from edif.worker.shared_runners import SharedRunner
from edif.worker.waiting import Waiter, next_ones

log = structlog.get_logger()

_FRUITLESS_AT_MOST = 5
_FILL_AFTER_S = 0.025
_TAKE_S = 300.0
"""Waiting for a runner that no other job has takes milliseconds, or as long as the zygote is busy with its preparations."""
_READY_AHEAD = 2
"""Sealed runners that stand ready: making one takes longer than a small job."""
_COMING_AT_ONCE = len(os.sched_getaffinity(0))
"""So many sealed runners are in the making: more at a time would come no sooner, and take the processors from passes that run."""
_IDLE_S = 10.0
"""Where traces are merged more are made while many jobs come; so long after the last one the surplus goes."""


class Pool:
    """Takes and makes runners. Jobs are served in the order in which they came; shared ones that are to run alone are a line of their own.

    Args:
        replica_id: the replica's name.
        cell: that of the jobs to come; None for shared ones. A job that comes with another one changes it.
        scratch: a folder for the scratch folders of sealed jobs.
        forks: by which processes are made.
        one_at_a_time: whether a job begins only when the process of the one before is gone, or is clean again.
        failed: called when runners die one after the other before they are ready.

    Attributes:
        merging: how their traces are merged; None if they are not.
    """

    def __init__(
        self,
        replica_id: str,
        cell: CellLimits | None,
        scratch: Path,
        forks: Forks,
        failed: Callable[[], None],
        *,
        one_at_a_time: bool = False,
    ) -> None:
        self._one_at_a_time = one_at_a_time
        self.merging: Merging | None = None
        self._replica_id = replica_id
        self._cell = cell
        self._scratch = scratch
        self._forks = forks
        self._failed = failed
        self._driving = Driving(replica_id, forks, self._on_driver_died)
        self._runners: list[Runner] = []
        self._waiting: deque[Waiter] = deque()
        self._fruitless = 0
        self._open = False
        self._over = False
        self._loop = asyncio.get_running_loop()
        self._shrinking: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """The model is there: runners can be made."""
        self._open = True
        self._fill()
        self._serve()

    def close(self) -> None:
        """No job is served any more. Those that wait are told so."""
        self._over = True
        self._open = False
        self._driving.close()
        if self._shrinking is not None:
            self._shrinking.cancel()
        for waiter in self._waiting:
            if not waiter.runner.done():
                waiter.runner.set_exception(RunnerDied(-signal.SIGKILL, by_its_job=False))
        self._waiting.clear()

    async def take(self, cell: CellLimits | None, *, alone: bool) -> Runner:
        """A runner of this kind, set aside for one job; with ``alone`` no other job is in it until it is given back.

        Raises:
            RunnerDied: the replica has ended, or its zygote makes none.
        """
        if self._over:
            raise RunnerDied(-signal.SIGKILL, by_its_job=False)
        waiter = Waiter(cell, alone)
        self._waiting.append(waiter)
        self._serve()
        try:
            while not waiter.runner.done():
                await asyncio.wait({waiter.runner}, timeout=_TAKE_S)
                if not any(each.held for each in self._runners):
                    break
        except asyncio.CancelledError:
            self._withdraw(waiter)
            raise
        if not waiter.runner.done():
            self._withdraw(waiter)
            raise RunnerDied(-signal.SIGKILL, by_its_job=False)
        return waiter.runner.result()

    def _withdraw(self, waiter: Waiter) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
            waiter.runner.cancel()
        elif waiter.runner.exception() is None:  # it was cancelled when it had just got one
            self._release(waiter.runner.result(), used=False)
        self._serve()

    def give_back(self, runner: Runner) -> None:
        """The job for which it was set aside is over."""
        self._release(runner, used=True)
        self._serve()
        # Not while the job ran, and not before its result is on its way: making the next one takes from both. Unless
        # none is left, for whom the next job would wait.
        if any(each.may_take(alone=False) for each in self._of(self._cell)):
            self._loop.call_later(_FILL_AFTER_S, self._fill)
        else:
            self._fill()
        self._shrink_later()

    def _release(self, runner: Runner, *, used: bool) -> None:
        runner.give_back()
        # What a sealed one still has running ends with its job; one of another cell has no more jobs to come.
        if (used and runner.cell is not None) or (runner.cell != self._cell and runner.held == 0):
            runner.kill()

    def _serve(self) -> None:
        """Hand out what is free, to the first in the line and then to those behind."""
        while self._waiting:
            self._turn_to(self._waiting[0].cell)
            self._fill()
            if not any(self._serve_one(each) for each in next_ones(self._waiting)):
                return

    def _serve_one(self, waiter: Waiter) -> bool:
        runner = self._chosen(waiter)
        if runner is None:
            return False
        self._waiting.remove(waiter)
        runner.take(alone=waiter.alone)
        waiter.runner.set_result(runner)
        return True

    def _chosen(self, waiter: Waiter) -> Runner | None:
        there = self._of(waiter.cell)
        if self._device_taken:
            return None
        if waiter.cell is None and self.merging is not None:
            return shared_stock.chosen(there, alone=waiter.alone)
        return next((each for each in there if each.may_take(alone=waiter.alone)), None)

    @property
    def _device_taken(self) -> bool:
        """Whether a job is at the model's device, or a process of one that may not have ended yet."""
        return self._one_at_a_time and any(each.held or each.doomed for each in self._runners)

    def _turn_to(self, cell: CellLimits | None) -> None:
        if cell != self._cell:
            self._cell = cell
            for other in self._runners:
                if other.cell != cell and other.held == 0:
                    other.kill()

    def _of(self, cell: CellLimits | None) -> list[Runner]:
        return [each for each in self._runners if each.cell == cell and not each.doomed]

    # -- how many --------------------------------------------------------------------------------------
    def _fill(self) -> None:
        """See to it that enough shared runners are there, or that enough sealed ones are free, and their driver."""
        if not self._open:
            return
        try:
            if self._cell is not None and self.merging is not None:
                self._driving.ensure(self.merging)
            for _ in range(self._lacking()):
                self._fork_runner()
        except OSError as error:  # no room, or too many open files: what runs is not to suffer from it
            log.error("replica.cannot_fork", replica=self._replica_id, reason=str(error))  # noqa: TRY400

    def _lacking(self) -> int:
        there = self._of(self._cell)
        if self._cell is None:
            wait_alone = sum(each.alone for each in self._waiting)
            return (
                1 - len(there) if self.merging is None else shared_stock.lacking(there, wait_alone=wait_alone)
            )
        coming = sum(not each.was_ready for each in there)
        return min(self._wanted_ahead() - sum(each.held == 0 for each in there), _COMING_AT_ONCE - coming)

    def _wanted_ahead(self) -> int:
        """So many sealed runners are to be free. Jobs whose traces are merged come in crowds: then as many as there are jobs."""
        busy = self._busy()
        ready = sum(each.may_take(alone=False) for each in self._of(self._cell))
        if self.merging is None or busy <= ready:
            return _READY_AHEAD
        return max(_READY_AHEAD, min(self.merging.rows, busy))

    @property
    def _has_time(self) -> bool:
        """Whether the processors have nothing better to do than to prepare for jobs to come: few are there now."""
        return not self._waiting and self._busy() <= _READY_AHEAD

    def _busy(self) -> int:
        return len(self._waiting) + sum(each.held for each in self._runners)

    def _shrink_later(self) -> None:
        if self.merging is None or self._over:
            return
        if self._shrinking is not None:
            self._shrinking.cancel()
        self._shrinking = self._loop.call_later(_IDLE_S, self._shrink)

    def _shrink(self) -> None:
        if self._busy() > 0:
            return
        there = self._of(self._cell)
        for runner in there[_READY_AHEAD:] if self._cell is not None else shared_stock.surplus(there):
            runner.kill()

    def _fork_runner(self) -> None:
        callbacks = ProcessCallbacks(ready=self._on_ready, kill=self._forks.kill, ended=self._on_ended)
        with ExitStack() as passed_on:
            if self._cell is None:
                runner: Runner | None = self._fork_shared(callbacks)
            else:
                runner = self._fork_sealed(self._cell, callbacks, passed_on)
        if runner is not None:
            self._runners.append(runner)

    def _fork_shared(self, callbacks: ProcessCallbacks) -> Runner | None:
        most = 1 if self.merging is None else self.merging.rows
        with ExitStack() as undone:
            turn_fd = turn_register.make()
            undone.callback(os.close, turn_fd)
            runner = self._forks.fork(
                pipe.ForkRunner(None, ""),
                lambda sock: SharedRunner(self._replica_id, sock, most, turn_fd, callbacks),
                (turn_fd,),
            )
            undone.pop_all()  # it is the runner's now, or went with it
            return runner

    def _fork_sealed(
        self, cell: CellLimits, callbacks: ProcessCallbacks, passed_on: ExitStack
    ) -> Runner | None:
        fds: tuple[int, ...] = ()
        with ExitStack() as undone:
            scratch = self._scratch / f"{self._replica_id}-{secrets.token_hex(6)}"
            scratch.mkdir(parents=True, mode=0o700)
            undone.callback(scratch.rmdir)
            seat: socket.socket | None = None
            if self.merging is not None:
                seat, theirs = pipe.pair()
                undone.enter_context(seat)
                fds = (passed_on.enter_context(theirs).fileno(),)
            make = partial(
                SealedRunner,
                self._replica_id,
                cell=cell,
                scratch=scratch,
                seat=seat,
                callbacks=callbacks,
                driver=lambda: self._driving.driver,
            )
            request = pipe.ForkRunner(cell, str(scratch), prepares=self._has_time)
            runner = self._forks.fork(request, make, fds)
            undone.pop_all()  # they are the runner's now, or went with it
            return runner

    # -- what becomes of them --------------------------------------------------------------------------
    def _on_ready(self) -> None:
        self._fruitless = 0
        self._serve()
        self._fill()

    def _on_ended(self, process: Process) -> None:
        assert isinstance(process, Runner)
        self._runners.remove(process)
        if self._over:
            return
        if not (process.killed or process.was_ready):
            if self._device_taken:
                return  # of the device's memory the job there may have left nothing; tried again when it is gone
            self._fruitless += 1
        if self._fruitless > _FRUITLESS_AT_MOST:
            self._failed()
            return
        self._fill()
        self._serve()

    def _on_driver_died(self, *, for_good: bool) -> None:
        if for_good:
            self.merging = None
        self._fill()
