"""That a replica whose traces are merged has a driver: it is forked when it is wanted, and anew when it has died."""

import time
from typing import Protocol

import structlog

from edif.wire import pipe
from edif.wire.link import Merging
from edif.worker.drivers import Driver
from edif.worker.forks import Forks
from edif.worker.processes import Process, ProcessCallbacks

log = structlog.get_logger()

_FRUITLESS_AT_MOST = 3
_FRUITFUL_S = 60.0


class _Died(Protocol):
    def __call__(self, *, for_good: bool) -> None: ...


class Driving:
    """The driver, or its absence.

    Args:
        replica_id: for the log.
        died: called when one has died; ``for_good`` if that came too often, and there will be none any more.
    """

    def __init__(self, replica_id: str, forks: Forks, died: _Died) -> None:
        self._replica_id = replica_id
        self._forks = forks
        self._died = died
        self._driver: Driver | None = None
        self._forked_at = 0.0
        self._fruitless = 0
        self._over = False

    @property
    def driver(self) -> Driver | None:
        """The one that has been ready and takes jobs; None if there is none now."""
        driver = self._driver
        return driver if driver is not None and driver.was_ready and not driver.doomed else None

    def ensure(self, merging: Merging) -> None:
        """See to it that there is one, or soon will be.

        Raises:
            OSError: too many open files.
        """
        if self._driver is not None or self._over:
            return
        callbacks = ProcessCallbacks(ready=lambda: None, kill=self._forks.kill, ended=self._ended)
        self._forked_at = time.monotonic()
        self._driver = self._forks.fork(pipe.ForkDriver(merging), lambda sock: Driver(sock, callbacks))

    def close(self) -> None:
        """The replica has ended."""
        self._over = True

    def _ended(self, process: Process) -> None:
        driver, self._driver = self._driver, None
        if self._over or driver is not process:
            return
        fruitful = driver.shared or (driver.was_ready and time.monotonic() - self._forked_at >= _FRUITFUL_S)
        self._fruitless = 0 if fruitful else self._fruitless + 1
        log.warning("replica.driver_died", replica=self._replica_id, fruitless=self._fruitless)
        if self._fruitless >= _FRUITLESS_AT_MOST:
            self._over = True
            log.error("replica.merging_given_up", replica=self._replica_id)
        self._died(for_good=self._over)
