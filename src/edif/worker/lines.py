"""Our end of one socket to a process of a replica: what is said there is heard in turns, and so much of it at most."""

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

import msgspec

from edif.wire import pipe

M = TypeVar("M")

_MESSAGES_PER_TURN = 64


class Line(Generic[M]):
    """What is said on one socket, passed on message by message; descriptors that ride along are closed.

    Args:
        sock: our end; ours to close from now on.
        decoder: what may be said there.
        hear: called with each message, from the event loop.
        broken: called when the peer is gone, says what is not in the protocol, or says too much; then it is not heard any more.
        most: so many messages at most, until :meth:`count_anew`; None for a process that runs no user code.
    """

    def __init__(
        self,
        sock: socket.socket,
        decoder: msgspec.msgpack.Decoder[M],
        hear: Callable[[M], None],
        broken: Callable[[], None],
        most: int | None,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._decoder = decoder
        self._hear = hear
        self._broken = broken
        self._most = most
        self._heard = 0
        self._listens = False
        self._loop = asyncio.get_running_loop()

    def listen(self) -> None:
        """Hear what is said from now on, until :meth:`close`."""
        self._loop.add_reader(self._sock, self._take_turn)
        self._listens = True

    def send(self, message: msgspec.Struct, fds: Sequence[int] = ()) -> None:
        """Say something, with descriptors.

        Raises:
            pipe.PipeError: the peer is gone, or does not read what it was told before.
        """
        try:
            pipe.send(self._sock, message, fds)
        except BlockingIOError:
            raise pipe.PipeError("the peer does not read") from None

    def count_anew(self) -> None:
        self._heard = 0

    def drain(self) -> None:
        """Hear what has been said already: an exit may be heard before the answer that was sent just before it."""
        while self._take_turn():
            pass

    def hush(self) -> None:
        """Let nothing more be said, and hear what has been."""
        with suppress(OSError):  # the peer is gone
            self._sock.shutdown(socket.SHUT_RD)
        self.drain()

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._hear_no_more()
            self._sock.close()

    def _hear_no_more(self) -> None:
        if self._listens:
            self._loop.remove_reader(self._sock)
            self._listens = False

    @property
    def _has_said_too_much(self) -> bool:
        return self._most is not None and self._heard > self._most

    def _take_turn(self) -> bool:
        """Hear some messages; whether there may be more. Who sends faster than we read must not keep us from all else."""
        for _ in range(_MESSAGES_PER_TURN):
            if self._sock.fileno() < 0 or self._has_said_too_much:
                return False
            try:
                message, fds = pipe.receive(self._sock, self._decoder)
            except BlockingIOError:
                return False
            except pipe.PipeError:
                self._hear_no_more()
                self._broken()
                return False
            for fd in fds:
                os.close(fd)
            self._heard += 1
            if self._has_said_too_much:
                self._hear_no_more()
                self._broken()
                return False
            self._hear(message)
        return True
