"""A sealed runner: a process in a cell that serves one job, on its own socket, and is killed after it."""

import asyncio
import contextlib
import shutil
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edif.wire import pipe
from edif.wire.link import CellLimits
from edif.worker.conversations import Conversation, JobCallbacks
from edif.worker.drivers import Driver
from edif.worker.endings import RunnerDied
from edif.worker.processes import ProcessCallbacks
from edif.worker.runners import Runner

_MESSAGES_PER_JOB = 10_000
"""Ours says a few hundred things at most."""


class SealedRunner(Runner):
    """One process in a cell.

    Args:
        cell: what it may use.
        scratch: its scratch folder; removed with it.
        seat: the other end of its seat, if its job may share passes; ours to close from now on.
        driver: who runs shared passes, if anyone does now.
    """

    def __init__(
        self,
        replica_id: str,
        sock: socket.socket,
        cell: CellLimits,
        scratch: Path,
        seat: socket.socket | None,
        callbacks: ProcessCallbacks,
        driver: Callable[[], Driver | None],
    ) -> None:
        super().__init__(replica_id, sock, cell, callbacks, _MESSAGES_PER_JOB)
        self._scratch = scratch
        self._seat = seat
        self._driver = driver
        self._ready = False
        self._job: Conversation | None = None

    def may_take(self, *, alone: bool) -> bool:
        return self._ready and self.held == 0 and self._job is None and not self.doomed

    async def run(
        self,
        request: pipe.RunJob,
        fds: Sequence[int],
        job: JobCallbacks,
        time_limit_s: float,
        *,
        alone: bool = False,
    ) -> pipe.Done:
        self.line.count_anew()
        conversation = self._job = Conversation(job, self.kill, alone=alone)
        driver = self._driver() if request.merge else None
        seat = self._be_seated(driver, job)
        conversation.begin()
        began, before = time.monotonic(), self.memory().own
        try:
            try:
                self.line.send(msgspec.structs.replace(request, merge=seat is not None), fds)
            except pipe.PipeError:
                raise RunnerDied(-signal.SIGKILL, by_its_job=False) from None
            async with asyncio.timeout(time_limit_s):
                await asyncio.wait({conversation.answer})
            return conversation.outcome()
        except (asyncio.CancelledError, TimeoutError):
            self.kill()
            raise
        finally:
            if driver is not None and seat is not None:
                driver.leave(seat)
            job.spent(time.monotonic() - began, max(self.memory().most_own - before, 0))
            conversation.close()

    def _be_seated(self, driver: Driver | None, job: JobCallbacks) -> int | None:
        """Give the seat to the driver, and close it here; the number under which it speaks of it, None without one."""
        if self._seat is None:
            return None
        with self._seat as seat:
            self._seat = None
            return None if driver is None else driver.admit(seat, job.shared)

    def discard(self) -> None:
        super().discard()
        if self._seat is not None:
            self._seat.close()
        with contextlib.suppress(RecursionError):  # folders made deeper than Python can count
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _tell(self, status: int, *, with_all: bool) -> None:
        if self._job is not None:
            self._job.fail(RunnerDied(status, by_its_job=not with_all))

    def _understand(self, message: Any) -> None:
        match message:
            case pipe.Ready():
                self.was_ready = self._ready = True
                self._callbacks.ready()
            case pipe.Tainted():  # it has no reason to say so
                self.kill()
            case pipe.Begun() | pipe.Shared():
                pass  # its time runs already, and of passes the driver tells
            case _:
                if self._job is not None:
                    self._job.understand(message, self.line)
