"""The driver of a replica: the one process that runs forward passes for several sealed jobs together, and no user code."""

import socket
from collections.abc import Callable
from typing import Any

import structlog

from edif.wire import pipe
from edif.worker.processes import Process, ProcessCallbacks

log = structlog.get_logger()


class Driver(Process):
    """The socket to it.

    Attributes:
        shared: whether it has run a shared pass.
    """

    def __init__(self, sock: socket.socket, callbacks: ProcessCallbacks) -> None:
        super().__init__(sock, pipe.from_driver, callbacks, most=None)
        self.shared = False
        self._last_seat = 0
        self._seats: dict[int, Callable[[pipe.Shared], None]] = {}

    def admit(self, seat: socket.socket, shared: Callable[[pipe.Shared], None]) -> int | None:
        """Let a job take part in shared passes, of each of which ``shared`` is told until :meth:`leave`.

        Returns:
            The number of its seat, None if the driver cannot take it.
        """
        number = self._last_seat + 1
        try:
            self.line.send(pipe.Admit(number), (seat.fileno(),))
        except pipe.PipeError:
            return None
        self._last_seat = number
        self._seats[number] = shared
        return number

    def leave(self, seat: int) -> None:
        """The job is over. What was said of its passes before that is still heard."""
        self.line.drain()
        self._seats.pop(seat, None)

    def _understand(self, message: Any) -> None:
        match message:
            case pipe.Ready():
                self.was_ready = True
                self._callbacks.ready()
            case pipe.Shared(seat=seat):
                self.shared = True
                if (tell := self._seats.get(seat)) is not None:
                    tell(message)
