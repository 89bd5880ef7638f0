"""Which compression is chosen; speeds are this machine's, so only what no speed changes is asked."""

import io
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard

from edif.core.job import Extras
from edif.executor.archive import Archive, lay_out
from edif.executor.compression import Form, form_for
from edif.executor.packing import write_packed
from edif.walls.memory import memory_of, reset_peak
from tests.sizes import SIZES
from tests.unit.wire.packing import unpacked

MIB = 2**20
ANY_LINE = (1e3, 125e6, 1e15)
NOTHING = Extras()
READS_PACKED = Extras(packed=True, link_bytes_per_s=1e3)


def frame(archive: Archive, extras: Extras = NOTHING) -> bytes:
    form = form_for(archive, extras)
    assert not form.packed
    compressor = form.compressor().compressobj(size=archive.size)
    return b"".join([*(compressor.compress(piece.view) for piece in archive.pieces()), compressor.flush()])


def packed(archive: Archive, threads: int = 2) -> bytes:
    file = io.BytesIO()
    write_packed(archive, file, threads)
    return file.getvalue()


def content(archive: Archive) -> bytes:
    return b"".join(piece.view for piece in archive.pieces())


def noise(mib: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(mib, MIB // dtype.itemsize).to(dtype)


@pytest.mark.parametrize("mib", [1, 40])
def test_one_frame_with_its_size_that_holds_all(mib: int) -> None:
    archive = lay_out({"x": torch.randint(0, 255, (mib, MIB), dtype=torch.uint8)})
    written = frame(archive)
    assert zstandard.frame_content_size(written[:32]) == archive.size
    assert zstandard.ZstdDecompressor().decompress(written) == content(archive)


def test_what_compresses_well_is_compressed() -> None:
    assert len(frame(lay_out({"x": torch.zeros(10 * MIB)}))) < MIB


def test_noise_grows_by_little() -> None:
    archive = lay_out({"x": torch.randint(0, 255, (20, MIB), dtype=torch.uint8)})
    assert len(frame(archive)) < archive.size * 1.001


# -- what the line has to say ------------------------------------------------------------------------------
def test_on_a_slow_line_small_is_fast_and_on_an_endless_one_it_is_not() -> None:
    archive = lay_out({"x": noise(16)})
    slow, fast = (form_for(archive, Extras(link_bytes_per_s=speed)) for speed in (1e3, 1e15))
    assert slow.level > fast.level
    assert len(frame(archive, Extras(link_bytes_per_s=1e3))) < 0.9 * archive.size


@pytest.mark.parametrize("link_bytes_per_s", [5e-324, 1.7e308, float("inf")])
def test_no_speed_that_a_client_may_name_is_too_much(link_bytes_per_s: float) -> None:
    form_for(lay_out({"x": noise(16)}), Extras(packed=True, link_bytes_per_s=link_bytes_per_s))


# -- packed ------------------------------------------------------------------------------------------------
def test_floats_are_packed_for_who_reads_that_on_a_slow_line() -> None:
    archive = lay_out({"x": noise(16)})
    assert form_for(archive, READS_PACKED).packed
    assert len(packed(archive)) < len(frame(archive, Extras(link_bytes_per_s=1e3))) / 1.1


@pytest.mark.parametrize("link_bytes_per_s", ANY_LINE)
@pytest.mark.parametrize(
    ("value", "asked"),
    [
        (noise(16), False),  # by nobody
        (noise(7), True),  # small
        (torch.randint(0, 255, (16, MIB), dtype=torch.uint8), True),  # without planes
    ],
    ids=["not asked", "small", "bytes"],
)
def test_nothing_is_packed_that_need_not_be(
    value: torch.Tensor, asked: bool, link_bytes_per_s: float
) -> None:
    form = form_for(lay_out({"x": value}), Extras(packed=asked, link_bytes_per_s=link_bytes_per_s))
    assert not form.packed


VALUES: dict[str, Any] = {
    "bf16": noise(9),
    "fp32": torch.randn(3, MIB),
    "fp64": torch.randn(MIB + 3, dtype=torch.float64),
    "complex": torch.randn(MIB, dtype=torch.complex64),
    "ints": torch.arange(MIB),
    "turned": torch.randn(700, 1500).t()[::2],
    "bytes": torch.randint(0, 255, (3, MIB), dtype=torch.uint8),
    "zeros": torch.zeros(5 * MIB),
    "words": ["some", {"words": 1.5}],
}


@pytest.mark.parametrize("threads", [1, 3])
def test_packed_is_what_was_laid_out(threads: int) -> None:
    archive = lay_out(VALUES)
    written = packed(archive, threads)
    assert unpacked(written) == content(archive)
    assert len(written) < 0.9 * archive.size


@pytest.mark.parametrize("threads", [1, 8])
def test_packing_takes_little_memory(threads: int) -> None:
    base = torch.randn(SIZES.large_result_mib, MIB // 2).to(torch.bfloat16)
    archive = lay_out({"value": base.view(-1, 2)[:, 0]})
    reset_peak()
    before = memory_of().own
    with Path("/dev/null").open("wb") as file:
        write_packed(archive, file, threads)
    assert memory_of().most_own - before < 64 * MIB


@pytest.mark.parametrize("there_are", [0, 1])
def test_where_no_thread_can_be_started_it_is_packed_all_the_same(
    there_are: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, left = threading.Thread.start, [there_are]

    def start_some(thread: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    archive = lay_out(VALUES)
    assert unpacked(packed(archive, 3)) == content(archive)
    assert left == [0]


def test_a_file_that_takes_no_more_ends_it() -> None:
    with Path("/dev/full").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        write_packed(lay_out({"x": noise(32)}), file, 2)


def test_a_form_has_as_many_threads_as_the_job() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert form_for(lay_out({"x": noise(16)}), Extras()) in (Form(1, 1), Form(-100, 1))
    finally:
        torch.set_num_threads(before)
