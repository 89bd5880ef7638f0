"""A packed result is written: its blocks are packed in several threads, and go to the file in order."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import BinaryIO

from edif.core.limits import MIB
from edif.executor.archive import Archive
from edif.executor.parts import Piece
from edif.wire import packed, planes

_BLOCK_BYTES = MIB  # its planes then stay in a processor's cache
_THREADS = 4  # each takes 4 MiB at most, and 72 MiB of address space, which is limited in a sealed process

_Packed = list[bytes | memoryview]


def write_packed(archive: Archive, file: BinaryIO, threads: int) -> None:
    """
    Raises:
        OSError: the file does not take it.
    """
    file.write(packed.head(archive.size))
    for parts in _packed(_blocks(archive), min(threads, _THREADS)):
        for part in parts:
            file.write(part)


def _blocks(archive: Archive) -> Iterator[Piece]:
    for piece in archive.pieces():
        for start in range(0, len(piece.view), _BLOCK_BYTES):
            yield Piece(piece.view[start : start + _BLOCK_BYTES], piece.width)


def _packed(blocks: Iterator[Piece], threads: int) -> Iterator[_Packed]:
    if threads < 2:
        yield from (planes.pack(*block) for block in blocks)
        return
    waiting: deque[Future[_Packed]] = deque()
    alone: Iterator[Piece] = iter(())
    with ThreadPoolExecutor(threads, "packing") as pool:
        for block in blocks:
            try:
                waiting.append(pool.submit(planes.pack, *block))
            except RuntimeError:  # the process may have no further thread
                alone = chain([block], blocks)
                break
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    yield from (planes.pack(*block) for block in alone)
