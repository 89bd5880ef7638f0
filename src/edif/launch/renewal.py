"""Certificates that are renewed while a service runs."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Self

import structlog

from edif.core.errors import SetupError

log = structlog.get_logger()


class FollowingContext(ssl.SSLContext):
    """A TLS context that is made anew when its files change, so that a renewed certificate needs no restart.

    Connections that stand keep what they began with. Files that do not fit, as between the writing of the one
    and of the other, are told in the log, and what was there before goes on.
    """

    _files: tuple[Path, ...]
    _make: Callable[[], ssl.SSLContext]
    _current: ssl.SSLContext
    _seen: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, files: tuple[Path, ...], make: Callable[[], ssl.SSLContext]) -> Self:
        """
        Raises:
            SetupError: the files do not fit now.
        """
        seen, current = _stamps(files), make()
        self = cls(current.protocol)
        self._files, self._make, self._seen, self._current = files, make, seen, current
        return self

    def wrap_bio(self, *args: object, **kwargs: object) -> ssl.SSLObject:
        """What asyncio, uvloop and anyio call once for each new connection."""
        self._follow()
        return self._current.wrap_bio(*args, **kwargs)  # type: ignore[arg-type]

    def _follow(self) -> None:
        stamps = _stamps(self._files)
        if stamps == self._seen:
            return
        self._seen = stamps
        try:
            self._current = self._make()
        except SetupError as error:
            log.warning("tls.not_renewed", reason=error.sentence)
        else:
            log.info("tls.renewed", files=[str(path) for path in self._files])


def _stamps(files: tuple[Path, ...]) -> tuple[tuple[int, int, int], ...]:
    """What changes with a file's content or its replacement; zeros while it is not there."""
    stamps = []
    for path in files:
        try:
            stat = path.stat()
        except OSError:
            stamps.append((0, 0, 0))
        else:
            stamps.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return tuple(stamps)
