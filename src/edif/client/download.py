"""A result in parallel pieces, each taken up again where it stopped."""

import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import httpx

from edif.client.retrying import Patience, Say, told
from edif.core import errors
from edif.core.errors import EdifError
from edif.core.limits import MIB

PIECE_BYTES = 8 * MIB
CONNECTIONS = 4
_AHEAD = 6  # pieces asked for before the first of them has been taken: bounds memory when they are unpacked on the way
_PATIENCE_S = 600.0
_TICK_S = 0.1

Place = Callable[[int, int], memoryview]
"""Where the piece that begins at a byte, and has so many, is to be written."""


class _Answer(NamedTuple):
    start: int
    total: int


class Download:
    """
    Args:
        link: where the result lies.
        renew: gives a fresh link when that one has expired.
        say: is told what is waited for.
        progress: is told now and then how many bytes have come in all, and how many there are.
    """

    def __init__(
        self,
        http: httpx.Client,
        link: str,
        renew: Callable[[], str],
        say: Say,
        progress: Callable[[int, int], None],
    ) -> None:
        self._http = http
        self._link = link
        self._renew = renew
        self._say = say
        self._progress = progress
        self._lock = threading.Lock()
        self._arrived = 0
        self._stopped = threading.Event()
        self.total = 0
        """Known after :meth:`first`."""

    def first(self) -> memoryview:
        """The first piece: all of it, if it is a small result."""
        kept: list[memoryview] = []

        def place(_: int, total: int) -> memoryview:
            self.total = total
            if not kept:
                kept.append(memoryview(bytearray(min(total, PIECE_BYTES))))
            return kept[0]

        self._piece(0, PIECE_BYTES, place)
        return kept[0]

    def rest(self, place: Place) -> Iterator[memoryview]:
        """All further pieces, in order."""
        starts = iter(range(PIECE_BYTES, self.total, PIECE_BYTES))
        waiting: deque[Future[memoryview]] = deque()
        pool = ThreadPoolExecutor(CONNECTIONS, "edif download")
        try:
            while True:
                while len(waiting) < _AHEAD and (start := next(starts, None)) is not None:
                    size = min(PIECE_BYTES, self.total - start)
                    waiting.append(pool.submit(self._piece, start, size, place))
                if not waiting:
                    return
                yield self._taken(waiting.popleft())
        finally:
            self._stopped.set()
            pool.shutdown(cancel_futures=True)

    def _taken(self, piece: Future[memoryview]) -> memoryview:
        while True:
            try:
                return piece.result(timeout=_TICK_S)
            except TimeoutError:
                if piece.done():
                    raise
                self._progress(self._arrived, self.total)

    def _piece(self, start: int, size: int, place: Place) -> memoryview:
        """One piece, wherever its bytes are to go. Until the total is known, ``place`` is told the total in place of the size."""
        patience = Patience("Downloading the result", self._say, _PATIENCE_S)
        view = place(start, size) if self.total else None
        got = 0
        while True:
            link = self._link
            try:
                with self._http.stream("GET", link, headers=_range(start + got, start + size)) as response:
                    answer = self._read_head(response, link, start + got)
                    if answer is not None:
                        if view is None:
                            view = place(start, answer.total)
                        for chunk in response.iter_raw():
                            view[got : got + len(chunk)] = chunk
                            got += len(chunk)
                            self._count(len(chunk))
                            patience.progress()
                        if got == len(view):
                            return view
                reason = "it broke off" if answer is not None else f"HTTP {response.status_code}"
            except httpx.TransportError as error:
                reason = told(error)
            if self._stopped.wait(patience.next_wait_s(reason)):
                raise EdifError(errors.RESULT_DAMAGED, "Another piece of this result could not be had.")

    def _count(self, size: int) -> None:
        with self._lock:
            self._arrived += size

    def _read_head(self, response: httpx.Response, link: str, start: int) -> _Answer | None:
        """What the answer holds; None if it is to be asked for again.

        Raises:
            EdifError: it will not be answered otherwise.
        """
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("content-range", ""))
        if response.status_code == httpx.codes.PARTIAL_CONTENT and match and int(match[1]) == start:
            answer = _Answer(start, int(match[2]))
            if self.total in (0, answer.total):
                return answer
        if response.status_code in (429, 500, 502, 503, 504):
            return None
        if response.status_code == httpx.codes.FORBIDDEN:
            self._fresh_link(link)
            return None
        if response.status_code in (404, 410):
            raise EdifError(errors.RESULT_GONE, "This job's result is no longer kept.")
        raise EdifError(
            errors.RESULT_DAMAGED,
            f"{response.url.host} answered HTTP {response.status_code} to a part of the result.",
            "If a proxy stands between you and the fabric, let it pass ranges; else tell your operator.",
        )

    def _fresh_link(self, refused: str) -> None:
        with self._lock:
            if self._link == refused:  # else another piece has asked for it already
                self._link = self._renew()


def _range(start: int, end: int) -> dict[str, str]:
    return {"range": f"bytes={start}-{end - 1}", "accept-encoding": "identity"}
