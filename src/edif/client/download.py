"""A result in parallel pieces, each taken up again where it stopped."""

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from http import HTTPStatus
from operator import itemgetter
from urllib.parse import urlsplit

from edif.client.lines import LineBroke, Lines, Part
from edif.client.link_speed import REQUEST_BYTES
from edif.client.retrying import Patience, Say
from edif.core import errors
from edif.core.errors import EdifError
from edif.core.limits import MIB

PIECE_BYTES = 16 * MIB  # at most; of what is smaller all connections get some
FIRST_BYTES = MIB
CONNECTIONS = 4
_AHEAD_AT_FIRST = 2  # pieces that are asked for and not yet taken: one connection fills what the other one's request leaves idle
_AHEAD = 5  # of them at most, and one more whenever one is waited for: bounds memory when they are unpacked on the way
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
        lines: Lines,
        link: str,
        total: int,
        renew: Callable[[], str],
        say: Say,
        progress: Callable[[int], None],
    ) -> None:
        self._lines = lines
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
        view = memoryview(bytearray(min(FIRST_BYTES, self.total)))
        self._fill(_Piece([(0, view)]))
        return view

    def rest(self, place: Place) -> Iterator[memoryview]:
        """All further pieces, in order."""
        step = _piece_bytes(self.total)
        sizes = ((start, min(step, self.total - start)) for start in range(FIRST_BYTES, self.total, step))
        for piece in self._filled(_Piece([(start, place(start, size))]) for start, size in sizes):
            yield piece.parts[0][1]

    def ranges(self, parts: Iterable[tuple[int, memoryview]]) -> None:
        """Fill each memory with the bytes from its start on; together they may be any parts of the whole, in any order."""
        # Their memory is there already, and they may be small: all connections are used from the start.
        for _ in self._filled(_pieces(list(parts)), ahead=2 * CONNECTIONS):
            pass

    def _filled(self, pieces: Iterable["_Piece"], ahead: int = _AHEAD_AT_FIRST) -> Iterator["_Piece"]:
        """Each when it is complete, in order."""
        pieces = iter(pieces)
        waiting: deque[tuple[_Piece, Future[None]]] = deque()
        pool = ThreadPoolExecutor(CONNECTIONS, "edif download")
        try:
            while True:
                while len(waiting) < ahead and (piece := next(pieces, None)) is not None:
                    waiting.append((piece, pool.submit(self._fill, piece)))
                if not waiting:
                    return
                if self._is_done(waiting[0][1]):
                    yield waiting.popleft()[0]
                else:
                    ahead = max(ahead, min(ahead + 1, _AHEAD))
        finally:
            self._stopped.set()
            pool.shutdown(cancel_futures=True)
            self._stopped.clear()

    def _is_done(self, piece: Future[None]) -> bool:
        """Whether it is, after a moment at the latest; raises what kept it from that."""
        done, _ = wait([piece], timeout=_TICK_S)
        self._progress(self._arrived)
        if done:
            piece.result()
        return bool(done)

    def _fill(self, piece: "_Piece") -> None:
        while True:
            link = self._link
            try:
                with self._timed(), self._lines.part(link, piece.at, piece.end) as answer:
                    if self._is_part(answer, link, piece.at):
                        self._read(answer, piece)
                        if piece.at == piece.end:
                            return
                reason = (
                    "it broke off" if answer.status == HTTPStatus.PARTIAL_CONTENT else f"HTTP {answer.status}"
                )
            except LineBroke as error:
                reason = str(error)
            if self._stopped.wait(self._patience.next_wait_s(reason)):
                raise _another_failed()

    def _read(self, answer: Part, piece: "_Piece") -> None:
        """As much as comes."""
        while piece.at < piece.end and (size := answer.read_into(piece.room())):
            piece.at += size
            self._count(size)
            self._patience.progress()
            if self._stopped.is_set():
                raise _another_failed()

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

    def _is_part(self, answer: Part, link: str, start: int) -> bool:
        """Whether it is what was asked for; else it is to be asked for again.

        Raises:
            EdifError: it will not be answered otherwise.
        """
        if answer.status in (429, 500, 502, 503, 504):
            return False
        if answer.status == HTTPStatus.FORBIDDEN:
            self._fresh_link(link)
            return False
        if answer.status in (404, 410):
            self._link_after_none(link)
            return False
        told_range = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.header("content-range"))
        if told_range is None or (int(told_range[1]), int(told_range[2])) != (start, self.total):
            raise EdifError(
                errors.RESULT_DAMAGED,
                f"{urlsplit(link).hostname} answered HTTP {answer.status} to a part of the result, and not with that part.",
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


class _Piece:
    """Bytes that are asked for at once, and where they go.

    Attributes:
        parts: starts and memories, in order; what lies between two is thrown away.
        at: which byte is next.
        end: which byte is no longer wanted.
    """

    def __init__(self, parts: list[tuple[int, memoryview]]) -> None:
        self.parts = parts
        self.at = parts[0][0]
        self.end = parts[-1][0] + len(parts[-1][1])
        self._part = 0

    def room(self) -> memoryview:
        """Where the next bytes go."""
        start, view = self.parts[self._part]
        while self.at >= start + len(view):
            self._part += 1
            start, view = self.parts[self._part]
        if self.at < start:
            return memoryview(bytearray(start - self.at))
        return view[self.at - start :]


def _pieces(parts: list[tuple[int, memoryview]]) -> Iterator[_Piece]:
    """Large parts cut, neighbours joined."""
    step = _piece_bytes(sum(len(view) for _, view in parts))
    joined: list[tuple[int, memoryview]] = []
    for start, view in _cut(sorted(parts, key=itemgetter(0)), step):
        if joined and not _fits(joined, start, start + len(view), step):
            yield _Piece(joined)
            joined = []
        joined.append((start, view))
    if joined:
        yield _Piece(joined)


def _cut(parts: list[tuple[int, memoryview]], step: int) -> Iterator[tuple[int, memoryview]]:
    for start, view in parts:
        for at in range(0, len(view), step):
            yield start + at, view[at : at + step]


def _fits(joined: list[tuple[int, memoryview]], start: int, end: int, step: int) -> bool:
    last, view = joined[-1]
    return 0 <= start - (last + len(view)) <= REQUEST_BYTES and end - joined[0][0] <= step


def _piece_bytes(total: int) -> int:
    return min(PIECE_BYTES, max(MIB, total // (2 * CONNECTIONS)))


def _another_failed() -> EdifError:
    return EdifError(errors.RESULT_DAMAGED, "Another piece of this result could not be had.")
