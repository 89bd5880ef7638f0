"""How hard a result is compressed: what takes the least time in all, measured on a part of it."""

import os
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
import zstandard

from edif.core.job import Extras
from edif.core.limits import DEFAULT_LIMITS, MIB
from edif.executor.archive import Archive
from edif.wire import planes
from edif.wire.packed import BLOCK_BYTES, BLOCK_HEAD_BYTES, read_block_head

_THOROUGH, _FASTEST = 1, -100
_MEASURED_BYTES = 8 * MIB
"""Below this there is nothing to gain by measuring, nor by packing."""
_SAMPLES = 8
_SAMPLE_BYTES = 256 * 1024
_PAYS = 0.95
"""Part of the time that a packed result may take at most: for less, it shall be one that any client reads."""
_READERS = 2
"""Threads with which a packed result is unpacked; a frame has one reader."""

Samples = list[tuple[bytes, int]]
Result = TypeVar("Result")


class Form(NamedTuple):
    """What is made of an archive: one zstd frame, or a packed result.

    Attributes:
        level: of the frame.
        threads: as many as the job may compute with; 0 does all in the one that asks.
        packed: no frame but planes.
    """

    level: int
    threads: int
    packed: bool = False

    def compressor(self) -> zstandard.ZstdCompressor:
        return zstandard.ZstdCompressor(level=self.level, threads=self.threads)


def form_for(archive: Archive, extras: Extras) -> Form:
    """
    Args:
        extras: of the client: how fast its line is, and whether it reads packed results.
    """
    if archive.size < _MEASURED_BYTES:
        return Form(_THOROUGH, threads=0)
    threads = min(torch.get_num_threads(), len(os.sched_getaffinity(0)))
    samples = archive.samples(_SAMPLES, _SAMPLE_BYTES)
    link_bytes_per_s = extras.link_bytes_per_s or DEFAULT_LIMITS.link_bytes_per_s

    def seconds(measured: "_Measured") -> float:
        return measured.write_s / threads + measured.size / link_bytes_per_s + measured.read_s

    frames = {level: seconds(_frames(samples, level)) for level in (_THOROUGH, _FASTEST)}
    level = min(frames, key=frames.__getitem__)
    pays = extras.packed and seconds(_planes(samples)) < _PAYS * frames[level]
    return Form(level, threads, packed=pays)


class _Measured(NamedTuple):
    """Processor seconds of one thread that writes, and of all that read; what else the machine does is not counted."""

    size: int
    write_s: float
    read_s: float


def _frames(samples: Samples, level: int) -> _Measured:
    sample = b"".join(content for content, _ in samples)
    frame, write_s = _timed(lambda: zstandard.ZstdCompressor(level=level).compress(sample))
    _, read_s = _timed(lambda: zstandard.ZstdDecompressor().decompress(frame))
    return _Measured(len(frame), write_s, read_s)


def _planes(samples: Samples) -> _Measured:
    blocks, write_s = _timed(lambda: [b"".join(planes.pack(*sample)) for sample in samples])
    _, read_s = _timed(lambda: [_read(block) for block in blocks])
    return _Measured(sum(map(len, blocks)), write_s, read_s / _READERS)


def _read(packed: bytes) -> bytearray:
    block = read_block_head(packed[:BLOCK_HEAD_BYTES], BLOCK_BYTES)
    content = bytearray(block.size)
    planes.unpack(block, memoryview(packed)[BLOCK_HEAD_BYTES:], memoryview(content))
    return content


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    began = time.thread_time()
    result = work()
    return result, time.thread_time() - began
