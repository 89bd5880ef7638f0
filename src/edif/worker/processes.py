"""A process that the zygote forks for its replica, seen from the agent: its own socket, its id, its death."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from edif.walls.memory import Memory, memory_of
from edif.worker.lines import Line


@dataclass(frozen=True, slots=True)
class ProcessCallbacks:
    """How a process reaches its replica.

    ``ready`` is called whenever it says that it is. ``kill`` has the zygote end the process with this id, a child of it.
    ``ended`` is called when it has died, after those who waited for its answer were told.
    """

    ready: Callable[[], None]
    kill: Callable[[int], None]
    ended: Callable[["Process"], None]


class Process:
    """The socket to one process.

    Args:
        sock: our end of its socket; ours to close from now on.
        decoder: what it may say.
        callbacks: called from the event loop.
        most: so many messages at most, as :class:`Line` counts them.

    Attributes:
        pid: its id, once the zygote has told.
        was_ready: whether it has said that it is ready.
        killed: whether we wanted it to end.
        doomed: whether it takes nothing more: it was killed, or is not heard any more.
        dead: whether its death has been told.
    """

    def __init__(
        self,
        sock: socket.socket,
        decoder: msgspec.msgpack.Decoder[Any],
        callbacks: ProcessCallbacks,
        most: int | None,
    ) -> None:
        self.pid: int | None = None
        self.was_ready = False
        self.killed = False
        self.doomed = False
        self.dead = False
        self._callbacks = callbacks
        self._loop = asyncio.get_running_loop()
        self.line = Line[Any](sock, decoder, self._understand, self._on_broken, most)

    def memory(self) -> Memory:
        return Memory() if self.pid is None else memory_of(self.pid)

    def kill(self) -> None:
        """End one that is no longer wanted. One that is not forked yet is killed when it is."""
        self.killed = self.doomed = True
        self._send_kill()

    def forked(self, pid: int) -> None:
        self.pid = pid
        if self.doomed:
            self._send_kill()

    def died(self, status: int, *, with_all: bool) -> None:
        """It has ended, or will be heard no more; ``with_all``: so have all others, for its replica has ended."""
        self.line.drain()
        self.discard()
        self._tell(status, with_all=with_all)
        self.doomed = self.dead = True
        self._callbacks.ended(self)

    def discard(self) -> None:
        """Give back what is held for it here."""
        self.line.close()

    def _tell(self, status: int, *, with_all: bool) -> None:
        """Tell those who wait for an answer of it that none will come."""

    def _send_kill(self) -> None:
        if self.pid is not None:
            self._callbacks.kill(self.pid)

    def _on_broken(self) -> None:
        self.doomed = True
        self._send_kill()  # it is gone already, or says what no process of ours says

    def _understand(self, message: Any) -> None:
        raise NotImplementedError
