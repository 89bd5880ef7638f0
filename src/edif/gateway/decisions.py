"""The scheduler as the runtime uses it, with a log of its decisions if one is wanted."""

import os
import time
from pathlib import Path

import structlog

from edif.scheduler import events as ev
from edif.scheduler import journal

log = structlog.get_logger()


class DecisionLog:
    """A file to which whole lines are added, so that a death cuts off the last one at most.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            self.add(b"\n")

    def add(self, line: bytes) -> None:
        """Add a line. A log that cannot be written ends; the fabric does not."""
        if self._fd < 0:
            return
        try:
            written = os.write(self._fd, line)
        except OSError as error:
            written, reason = 0, error.strerror
        else:
            reason = "the disk is full"
        if written < len(line):
            log.error("decisions.not_logged", reason=reason)
            self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Decisions:
    """Tells the scheduler what happened, and when."""

    def __init__(self, header: journal.Header, decision_log: DecisionLog | None) -> None:
        self.scheduler = header.scheduler()
        self._log = decision_log
        if decision_log is not None:
            decision_log.add(journal.encode_header(header))

    def handle(self, event: ev.Event) -> list[ev.Action]:
        now = time.monotonic()
        actions = self.scheduler.handle(event, now)
        if self._log is not None:
            self._log.add(journal.encode_step(now, event, actions))
        return actions
