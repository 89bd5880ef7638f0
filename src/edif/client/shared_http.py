"""HTTP connections that several threads use at once, and that one of them may leave meanwhile."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from edif.core import errors
from edif.core.errors import EdifError


class SharedHttp(httpx.Client):
    """A client of which :meth:`close` takes nothing from a request under way: the last one closes the connections.

    A thread that waits for an answer does not notice that its socket is closed: it waits for its whole timeout, or, where the
    number of the socket has gone to another one, reads what was meant for that.

    Args:
        fabric: the address to which this is a connection.
        options: of httpx.
    """

    def __init__(self, fabric: str, **options: Any) -> None:
        super().__init__(**options)
        self._fabric = fabric
        self._users = 0
        self._left = False
        self._users_lock = threading.Lock()

    def check_open(self) -> None:
        """
        Raises:
            EdifError: it was closed.
        """
        if self._left:
            raise EdifError(errors.NOT_CONNECTED, f"The connection to {self._fabric} was closed.")

    def request(self, *args: Any, **kwargs: Any) -> httpx.Response:
        with self._using():
            return super().request(*args, **kwargs)

    @contextmanager
    def stream(self, *args: Any, **kwargs: Any) -> Iterator[httpx.Response]:
        with self._using(), super().stream(*args, **kwargs) as answer:
            yield answer

    def close(self) -> None:
        """No more requests."""
        with self._users_lock:
            self._left = True
            used = self._users > 0
        if not used:
            super().close()

    @contextmanager
    def _using(self) -> Iterator[None]:
        with self._users_lock:
            self.check_open()
            self._users += 1
        try:
            yield
        finally:
            with self._users_lock:
                self._users -= 1
                last = self._left and not self._users
            if last:
                super().close()
