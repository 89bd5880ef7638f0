"""Connections on which a part of a file comes straight into the memory where it is wanted.

httpx hands bodies out in chunks of 64 KiB that Python has copied three times by then. Here the kernel (or TLS) writes into
the caller's memory, while other threads run. Where a proxy stands between, it is httpx that knows how to speak with it.
"""

import selectors
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Protocol
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from edif.client.retrying import told

_CONNECT_S = 10.0
_SILENT_S = 60.0  # a line on which nothing comes for so long is given up
_KEPT = 4  # idle connections to one server: as many as a download uses


class LineBroke(Exception):
    """Nothing came, or no more; the text says why."""


class Part(Protocol):
    """An answer whose body is read piecemeal."""

    status: int

    def header(self, name: str) -> str:
        """What it says, "" if there is none."""
        ...

    def read_into(self, view: memoryview) -> int:
        """Write what comes next here, at least a byte of it: how many bytes that were, 0 at the end."""
        ...


class Lines:
    """
    Args:
        http: for servers that a proxy of this machine's environment stands before.
        tls: for all others.
    """

    def __init__(self, http: httpx.Client, tls: ssl.SSLContext) -> None:
        self._http = http
        self._tls = tls
        self._idle: dict[tuple[str, str], list[HTTPConnection]] = {}
        self._closed = False
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close what is idle; what is in use is closed by its user."""
        with self._lock:
            idle, self._idle, self._closed = self._idle, {}, True
        for connections in idle.values():
            for each in connections:
                each.close()

    @contextmanager
    def part(self, link: str, start: int, end: int) -> Iterator[Part]:
        """The answer to a request for the bytes from ``start`` to before ``end``, whatever it is.

        Raises:
            LineBroke: also from within, by reading.
        """
        headers = {"range": f"bytes={start}-{end - 1}", "accept-encoding": "identity"}
        address = urlsplit(link)
        try:
            if _proxied(address):
                with self._http.stream("GET", link, headers=headers) as answer:
                    yield _Copied(answer)
            else:
                with self._direct(address, headers) as response:
                    yield _Direct(response)
        except (OSError, HTTPException, httpx.TransportError) as error:
            raise LineBroke(told(error)) from error

    @contextmanager
    def _direct(self, address: SplitResult, headers: dict[str, str]) -> Iterator[HTTPResponse]:
        place = (address.scheme, address.netloc)
        connection = self._taken(place)
        whole = False
        try:
            path = f"{address.path or '/'}?{address.query}" if address.query else address.path or "/"
            connection.request("GET", path, headers=headers)
            with connection.getresponse() as response:
                yield response
                whole = response.isclosed() and connection.sock is not None
        finally:
            if not (whole and self._kept(place, connection)):
                connection.close()

    def _taken(self, place: tuple[str, str]) -> HTTPConnection:
        while True:
            with self._lock:
                idle = self._idle.get(place)
                connection = idle.pop() if idle else None
            if connection is None:
                return self._connected(*place)
            if not _has_news(connection.sock):
                return connection
            connection.close()  # an idle connection has nothing to say but that it ends

    def _connected(self, scheme: str, netloc: str) -> HTTPConnection:
        if scheme == "https":
            connection: HTTPConnection = HTTPSConnection(netloc, timeout=_CONNECT_S, context=self._tls)
        else:
            connection = HTTPConnection(netloc, timeout=_CONNECT_S)
        connection.connect()
        connection.sock.settimeout(_SILENT_S)
        return connection

    def _kept(self, place: tuple[str, str], connection: HTTPConnection) -> bool:
        with self._lock:
            idle = self._idle.setdefault(place, [])
            if self._closed or len(idle) >= _KEPT:
                return False
            idle.append(connection)
            return True


class _Direct:
    """Read past the copies of :mod:`http.client`, which is told what was taken."""

    def __init__(self, response: HTTPResponse) -> None:
        self._response = response
        self.status = response.status

    def header(self, name: str) -> str:
        return self._response.headers.get(name, "")

    def read_into(self, view: memoryview) -> int:
        response = self._response
        if response.length is None:  # in chunks, or until the connection's end
            return response.readinto1(view)
        if not response.length:
            return 0
        size = response.fp.readinto1(view[: response.length])
        response.length -= size
        if not response.length:
            response.read()  # nothing; the response knows then that it is complete
        return size


class _Copied:
    """What httpx has read."""

    def __init__(self, answer: httpx.Response) -> None:
        self._answer = answer
        self._chunks = answer.iter_raw()
        self._rest = memoryview(b"")
        self.status = answer.status_code

    def header(self, name: str) -> str:
        return str(self._answer.headers.get(name, ""))

    def read_into(self, view: memoryview) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        part, self._rest = self._rest[: len(view)], self._rest[len(view) :]
        view[: len(part)] = part
        return len(part)


def _proxied(address: SplitResult) -> bool:
    proxies = getproxies()
    return bool(proxies.get(address.scheme) or proxies.get("all")) and not proxy_bypass(address.netloc)


def _has_news(sock: socket.socket) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(0))
