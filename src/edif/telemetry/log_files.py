"""The log file of a supervised service: begun anew each day (UTC), deleted when it has been kept for long enough."""

import asyncio
import os
import re
import time
from pathlib import Path

import structlog

log = structlog.get_logger()

_EVERY_S = 60.0
_DAY_S = 86_400.0
_STANDARD = (1, 2)


class LogFile:
    """
    Args:
        path: where the supervisor has this process write; what it writes elsewhere is not touched.
        keep_s: seconds after its last line for which an earlier day's file is kept.
    """

    def __init__(self, path: Path, keep_s: float) -> None:
        self._path = path
        self._keep_s = keep_s
        self._dated = re.compile(rf"{re.escape(path.stem)}-\d{{4}}-\d\d-\d\d(\.\d+)?\.log")
        self._day = _written_on(path)

    async def tend(self) -> None:
        """Do what the hour asks for, until cancelled."""
        while True:
            try:
                self.turn(time.time())
            except OSError as error:  # a full disk, say: the service goes on, and it is tried again
                log.warning("logs.not_turned", reason=str(error))
            await asyncio.sleep(_EVERY_S)

    def turn(self, now: float) -> None:
        """Begin a new file if the present one is of an earlier day, and delete those whose time is over."""
        today = int(now // _DAY_S)
        if self._day is not None and self._day < today and self._is_ours():
            self._begin_anew()
        self._day = today
        if not self._path.parent.is_dir():  # a service on its own writes where it was told to
            return
        for path in self._path.parent.iterdir():
            if self._dated.fullmatch(path.name) and path.stat().st_mtime < now - self._keep_s:
                path.unlink(missing_ok=True)

    def _is_ours(self) -> bool:
        """Whether this process writes to the file, not to a terminal or to somebody's own choice."""
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return all(os.path.samestat(os.fstat(fd), there) for fd in _STANDARD)

    def _begin_anew(self) -> None:
        self._path.rename(self._free_name())
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for standard in _STANDARD:
            os.dup2(fd, standard)
        os.close(fd)

    def _free_name(self) -> Path:
        day = time.strftime("%Y-%m-%d", time.gmtime(self._path.stat().st_mtime))
        names = [
            f"{self._path.stem}-{day}.log",
            *(f"{self._path.stem}-{day}.{n}.log" for n in range(2, 1000)),
        ]
        paths = [self._path.with_name(name) for name in names]
        return next((path for path in paths if not path.exists()), paths[-1])


def _written_on(path: Path) -> int | None:
    """The day of the last line, in days since 1970; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return int(found.st_mtime // _DAY_S) if found.st_size else None
