"""A line to a fabric that breaks, again and again, while something large comes down it."""

import socket
import struct
import threading
from contextlib import suppress
from urllib.parse import urlsplit

_AT_ONCE = 65536


class CutLine:
    """A TCP proxy on loopback. Whenever ``every`` further bytes have come down, all its connections are reset, ``cuts`` times.

    Attributes:
        url: of the fabric through this line.
        passed: bytes that have come down.
        cuts: how often it was cut.
    """

    def __init__(self, upstream: str, every: int = 0, cuts: int = 0) -> None:
        address = urlsplit(upstream)
        self._upstream = (address.hostname, address.port)
        self._every = every
        self._cuts_left = cuts
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.passed = 0
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "CutLine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cut_next(self, times: int) -> None:
        """Cut so often when something comes down, before it arrives."""
        with self._lock:
            self._every, self._cuts_left = 0, times

    def close(self) -> None:
        # A thread that waits in accept() keeps the socket open: it is woken first.
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Reset all connections: what is on its way is lost."""
        with self._lock:
            cut, self._open = self._open, set()
        for each in cut:
            with suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _AT_ONCE)  # a line holds little itself
                with suppress(OSError):
                    self._join(client, socket.create_connection(self._upstream))

    def _join(self, client: socket.socket, server: socket.socket) -> None:
        with self._lock:
            self._open |= {client, server}
        threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
        threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, down: bool) -> None:
        with suppress(OSError):
            while data := source.recv(_AT_ONCE):
                if down and self._is_due(len(data)):
                    self.cut()
                    return
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _is_due(self, size: int) -> bool:
        with self._lock:
            self.passed += size
            if not self._cuts_left or self.passed < self._every * (self.cuts + 1):
                return False
            self._cuts_left -= 1
            self.cuts += 1
            return True
