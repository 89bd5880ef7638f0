"""A result in parallel pieces, each taken up again where it stopped."""

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import httpx

from edif.client.retrying import Patience, Say, told
from edif.core import errors
from edif.core.errors import EdifError
from edif.core.limits import MIB

PIECE_BYTES = 8 * MIB
FIRST_BYTES = MIB
CONNECTIONS = 4
_AHEAD = 6  # pieces that are asked for and not yet taken: bounds memory when they are unpacked on the way
_PATIENCE_S = 600.0
_TICK_S = 0.1

Place = Callable[[int, int], memoryview]
"""Where the piece that begins at a byte, and has so many, is to be written."""


class Download:
    """
    Args:
        link: where the result lies.
        total: how many bytes it has.
        renew: gives a fresh link when that one is refused, or leads to nothing any more; raises if there is no result to link to.
        say: is told what is waited for.
        progress: is told now and then how many bytes have come in all.
    """

    def __init__(
        self,
        http: httpx.Client,
        link: str,
        total: int,
        renew: Callable[[], str],
        say: Say,
        progress: Callable[[int], None],
    ) -> None:
        self._http = http
        self._link = link
        self.total = total
        self._renew = renew
        self._patience = Patience(
            "Downloading the result", say, _PATIENCE_S
        )  # of all pieces: one line for all
        self._progress = progress
        self._gone = False  # nothing was found behind a link, and nothing has come since
        self._lock = threading.Lock()
        self._arrived = 0
        self._on_the_way = 0
        self._since = 0.0
        self._taken_s = 0.0
        self._stopped = threading.Event()

    @property
    def taken_s(self) -> float:
        """How long any of it was on its way: not while nothing was asked for, for what was there had not been unpacked."""
        with self._lock:
            return self._taken_s

    def first(self) -> memoryview:
        """The beginning, which says what it is: all of it, if it is a small result."""
        return self._piece(0, memoryview(bytearray(min(FIRST_BYTES, self.total))))

    def rest(self, place: Place) -> Iterator[memoryview]:
        """All further pieces, in order."""
        starts = range(FIRST_BYTES, self.total, PIECE_BYTES)
        return self._in_order((start, place(start, min(PIECE_BYTES, self.total - start))) for start in starts)

    def ranges(self, parts: Iterable[tuple[int, memoryview]]) -> None:
        """Fill each of these memories with the bytes that begin there."""
        pieces = (
            (start + at, memory[at : at + PIECE_BYTES])
            for start, memory in parts
            for at in range(0, len(memory), PIECE_BYTES)
        )
        for _ in self._in_order(pieces):
            pass

    def _in_order(self, pieces: Iterator[tuple[int, memoryview]]) -> Iterator[memoryview]:
        waiting: deque[Future[memoryview]] = deque()
        pool = ThreadPoolExecutor(CONNECTIONS, "edif download")
        try:
            while True:
                while len(waiting) < _AHEAD and (piece := next(pieces, None)) is not None:
                    waiting.append(pool.submit(self._piece, *piece))
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
                self._progress(self._arrived)

    def _piece(self, start: int, view: memoryview) -> memoryview:
        """Fill this memory with the bytes from ``start``."""
        got = 0
        while True:
            link = self._link
            try:
                wanted = _range(start + got, start + len(view))
                with self._timed(), self._http.stream("GET", link, headers=wanted) as answer:
                    if self._is_part(answer, link, start + got):
                        for chunk in answer.iter_raw():
                            view[got : got + len(chunk)] = chunk
                            got += len(chunk)
                            self._count(len(chunk))
                            self._patience.progress()
                        if got == len(view):
                            return view
                reason = "it broke off" if answer.is_success else f"HTTP {answer.status_code}"
            except httpx.TransportError as error:
                reason = told(error)
            if self._stopped.wait(self._patience.next_wait_s(reason)):
                raise EdifError(errors.RESULT_DAMAGED, "Another piece of this result could not be had.")

    @contextmanager
    def _timed(self) -> Iterator[None]:
        with self._lock:
            self._on_the_way += 1
            if self._on_the_way == 1:
                self._since = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._on_the_way -= 1
                if not self._on_the_way:
                    self._taken_s += time.monotonic() - self._since

    def _count(self, size: int) -> None:
        with self._lock:
            self._arrived += size
            self._gone = False

    def _is_part(self, answer: httpx.Response, link: str, start: int) -> bool:
        """Whether it is what was asked for; else it is to be asked for again.

        Raises:
            EdifError: it will not be answered otherwise.
        """
        if answer.status_code in (429, 500, 502, 503, 504):
            return False
        if answer.status_code == httpx.codes.FORBIDDEN:
            self._fresh_link(link)
            return False
        if answer.status_code in (404, 410):
            self._link_after_none(link)
            return False
        told_range = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("content-range", ""))
        if told_range is None or (int(told_range[1]), int(told_range[2])) != (start, self.total):
            raise EdifError(
                errors.RESULT_DAMAGED,
                f"{answer.url.host} answered HTTP {answer.status_code} to a part of the result, and not with that part.",
                "If a proxy stands between you and the fabric, let it pass ranges; else tell your operator.",
            )
        return True

    def _fresh_link(self, refused: str) -> None:
        with self._lock:
            if self._link == refused:  # else another piece has asked for it already
                self._link = self._renew()

    def _link_after_none(self, empty: str) -> None:
        """Nothing is behind this link: the result is gone, or links to it were revoked."""
        with self._lock:
            if self._link != empty:
                return
            if self._gone:
                raise EdifError(errors.RESULT_GONE, "This job's result is no longer kept.")
            self._gone, self._link = True, self._renew()


def _range(start: int, end: int) -> dict[str, str]:
    return {"range": f"bytes={start}-{end - 1}", "accept-encoding": "identity"}
