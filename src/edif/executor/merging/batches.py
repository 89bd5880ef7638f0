"""Which jobs of a shared runner run together: those that are there, and for a moment those that are about to come."""

import select
import socket
import time
from collections.abc import Iterator

from edif.wire import pipe

_LONGEST_WAIT_S = 0.025
_SHARE_OF_BATCH = 0.25
"""Nor longer than this part of what the last batch took."""


class Batches:
    """
    Args:
        sock: on which jobs are announced.
        most: so many at once.
        always: whether the first job waits for others in any case.
    """

    def __init__(self, sock: socket.socket, most: int, *, always: bool = False) -> None:
        self._sock = sock
        self._most = most
        self._always = always
        self._last = 1
        self._began = time.monotonic()

    def next(self) -> Iterator[socket.socket]:
        """The sockets of the jobs that run now, each as soon as it is there; waits for the first.

        As many as ran together the last time are waited for a little, from the first one's coming on: they tend to come back
        together. What is done with one before the next is asked for takes nothing from them. Who is by himself waits for nobody.

        Raises:
            PipeError: there will be no more.
        """
        job = self._receive()
        began = time.monotonic()
        wait_s = min(_LONGEST_WAIT_S, _SHARE_OF_BATCH * (began - self._began))
        if self._always:
            self._last, wait_s = self._most, _LONGEST_WAIT_S
        self._began = began
        count = 1
        yield job
        while count < self._most:
            left_s = max(began + wait_s - time.monotonic(), 0.0) if count < self._last else 0.0
            if not select.select([self._sock], [], [], left_s)[0]:
                break
            count += 1
            yield self._receive()
        self._last = count

    def somebody_comes(self, within_s: float = 0.0) -> bool:
        """Whether a job is announced, or is in that time, that does not run yet."""
        return bool(select.select([self._sock], [], [], within_s)[0])

    def _receive(self) -> socket.socket:
        message, fds = pipe.receive(self._sock, pipe.to_runner)
        if not isinstance(message, pipe.Enter) or len(fds) != 1:
            raise pipe.PipeError("a shared runner is handed jobs, each by its socket")
        return socket.socket(fileno=fds[0])
