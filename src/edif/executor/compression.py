"""How hard a result is compressed: what takes the least time in all, measured on a part of it."""

import os
import time

import torch
import zstandard

from edif.core.limits import MIB
from edif.executor.archive import Archive

_THOROUGH, _FASTEST = 1, -100
_MEASURED_BYTES = 8 * MIB
"""Below this there is nothing to gain by measuring."""
_SAMPLES = 8
_SAMPLE_BYTES = 256 * 1024
_LINK_BYTES_PER_S = 125e6  # 1 Gbit/s: between the room next door and a home


def compressor_for(archive: Archive) -> zstandard.ZstdCompressor:
    """For one frame of all of the archive, with as many threads as the job may compute with."""
    if archive.size < _MEASURED_BYTES:
        return zstandard.ZstdCompressor(level=_THOROUGH)
    threads = min(torch.get_num_threads(), len(os.sched_getaffinity(0)))
    sample = archive.sample(_SAMPLES, _SAMPLE_BYTES)
    level = min((_THOROUGH, _FASTEST), key=lambda each: _seconds(sample, each, threads))
    return zstandard.ZstdCompressor(level=level, threads=threads)


def _seconds(sample: bytes, level: int, threads: int) -> float:
    """To compress the sample, send it, and read it again; its reader has one thread. What else the machine does is not counted."""
    began = time.thread_time()
    frame = zstandard.ZstdCompressor(level=level).compress(sample)
    compressed = time.thread_time()
    zstandard.ZstdDecompressor().decompress(frame)
    read_s = time.thread_time() - compressed
    return (compressed - began) / threads + len(frame) / _LINK_BYTES_PER_S + read_s
