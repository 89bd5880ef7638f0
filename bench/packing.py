"""What a result's bytes cost on their way: zstd frames and planes of bytes, of values as models have them.

Each figure is the best of some rounds: one thread's by its processor time, two threads' by the clock, to which other work on the machine
only adds. A frame has one reader.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
import zstandard

from bench.tables import table
from edif.executor.archive import Archive, lay_out
from edif.executor.packing import write_packed
from edif.wire import packed, planes

_MIB = 256
_ROUNDS = {1: 3, 2: 15}
_THREADS = (1, 2)
_LEVELS = (-100, 1, 3)


class _Way(NamedTuple):
    name: str
    write: Callable[[Archive, int], bytes]
    read: Callable[[bytes, memoryview, int], None]
    readers: tuple[int, ...]


def measure(work: Path) -> str:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    ways = [_frames(level) for level in _LEVELS] + [_Way("planes", _pack, _unpack, _THREADS)]
    rows = [_row(kind, lay_out({"x": values}), way) for kind, values in _values() for way in ways]
    heads = (
        "values",
        "form",
        "ratio",
        *(
            f"{what}, {threads} thread{'s' * (threads > 1)}"
            for what in ("pack", "unpack")
            for threads in _THREADS
        ),
    )
    return table(
        f"Packing {_MIB} MiB of saved values, MB/s of them (best of {_ROUNDS[1]} and {_ROUNDS[2]})",
        heads,
        rows,
    )


def _values() -> Iterator[tuple[str, torch.Tensor]]:
    count = _MIB * 2**20
    yield "bf16 normal", torch.randn(count // 2).to(torch.bfloat16)
    yield "fp32 normal", torch.randn(count // 4)
    yield "fp32 after ReLU", torch.randn(count // 4).relu()


def _row(kind: str, archive: Archive, way: _Way) -> tuple[str, ...]:
    writes = {
        threads: _best(threads, lambda threads=threads: way.write(archive, threads)) for threads in _THREADS
    }
    written = way.write(archive, 1)
    content = memoryview(bytearray(archive.size))
    reads = {
        threads: _best(threads, lambda threads=threads: way.read(written, content, threads))
        for threads in way.readers
    }
    speeds = [_speed(archive, seconds) for seconds in writes.values()]
    speeds += [_speed(archive, reads[threads]) if threads in reads else "-" for threads in _THREADS]
    return (kind, way.name, f"{archive.size / len(written):.3f}", *speeds)


def _speed(archive: Archive, seconds: float) -> str:
    return f"{archive.size / seconds / 1e6:,.0f}"


def _best(threads: int, work: Callable[[], Any]) -> float:
    clock = time.process_time if threads == 1 else time.perf_counter
    found = []
    for _ in range(_ROUNDS[threads]):
        began = clock()
        work()
        found.append(clock() - began)
    return min(found)


def _frames(level: int) -> _Way:
    def write(archive: Archive, threads: int) -> bytes:
        file = BytesIO()
        compressor = zstandard.ZstdCompressor(level=level, threads=threads if threads > 1 else 0)
        with compressor.stream_writer(file, size=archive.size, closefd=False) as writer:
            for piece in archive.pieces():
                writer.write(piece.view)
        return file.getvalue()

    def read(written: bytes, content: memoryview, _: int) -> None:
        with zstandard.ZstdDecompressor().stream_reader(written) as reader:
            at = 0
            while size := reader.readinto(content[at:]):
                at += size

    return _Way(f"zstd {level}", write, read, (1,))


def _pack(archive: Archive, threads: int) -> bytes:
    file = BytesIO()
    write_packed(archive, file, threads)
    return file.getvalue()


def _unpack(written: bytes, content: memoryview, threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(planes.unpack, *block) for block in _blocks(memoryview(written), content)]:
            done.result()


def _blocks(rest: memoryview, content: memoryview) -> Iterator[tuple[packed.Block, memoryview, memoryview]]:
    rest = rest[packed.HEAD_BYTES :]
    while len(content):
        block = packed.read_block_head(rest[: packed.BLOCK_HEAD_BYTES], len(content))
        end = packed.BLOCK_HEAD_BYTES + block.payload_bytes
        yield block, rest[packed.BLOCK_HEAD_BYTES : end], content[: block.size]
        rest, content = rest[end:], content[block.size :]
