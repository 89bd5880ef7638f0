"""The packed form: what comes out is what went in, and what is none is told."""

import random
import struct

import hypothesis.strategies as st
import pytest
import zstandard
from hypothesis import given

from edif.walls.memory import memory_of, reset_peak
from edif.wire import packed, planes
from edif.wire.packed import Malformed
from fuzz.packed_results import pack
from tests.unit.wire.packing import unpacked

MIB = 2**20
contents = st.one_of(
    st.binary(max_size=3000),
    st.tuples(st.binary(min_size=1, max_size=9), st.integers(1, 30_000)).map(lambda each: each[0] * each[1]),
)


@given(content=contents, width=st.sampled_from(packed.WIDTHS), block_bytes=st.integers(1, 70_000))
def test_what_is_unpacked_is_what_was_packed(content: bytes, width: int, block_bytes: int) -> None:
    written = pack(content, width, max(block_bytes, len(content) // 50))
    assert packed.is_packed(written)
    assert packed.read_head(written, len(written)) == len(content)
    assert unpacked(written) == content


@pytest.mark.parametrize("width", packed.WIDTHS)
def test_floats_become_smaller_and_noise_hardly_larger(width: int) -> None:
    noise = random.Random(0).randbytes(MIB)
    assert len(pack(noise, width)) <= MIB + packed.HEAD_BYTES + packed.BLOCK_HEAD_BYTES + 4
    values = bytearray(noise)
    values[width - 1 :: width] = bytes(MIB // width)
    if width > 1:
        assert len(pack(bytes(values), width)) < MIB * (1 - 0.99 / width)


def test_a_block_of_broken_elements_is_packed_as_bytes() -> None:
    assert unpacked(pack(bytes(1001), 4)) == bytes(1001)


@given(
    content=st.binary(min_size=300, max_size=2000),
    width=st.sampled_from(packed.WIDTHS),
    part=st.floats(0, 1, exclude_max=True),
)
def test_what_is_cut_short_is_malformed(content: bytes, width: int, part: float) -> None:
    written = pack(content, width, 256)
    with pytest.raises(Malformed):
        unpacked(written[: int(len(written) * part)])


@given(
    content=contents.filter(len),
    width=st.sampled_from(packed.WIDTHS),
    at=st.integers(0),
    bits=st.integers(1, 255),
)
def test_what_is_altered_is_content_of_its_size_or_malformed(
    content: bytes, width: int, at: int, bits: int
) -> None:
    written = bytearray(pack(content, width))
    written[at % len(written)] ^= bits
    try:
        found = unpacked(bytes(written))
    except Malformed:
        return
    assert len(found) == packed.read_head(written, len(written))


def block(size: int, payload: bytes, width: int = 1) -> bytes:
    return struct.pack("<IIB", size, len(payload), width) + payload


def plane(content: bytes, size: int | None = None) -> bytes:
    return struct.pack("<I", len(content) if size is None else size) + content


FRAME = zstandard.compress(bytes(1000))
BOMB = zstandard.compress(bytes(300 * MIB))
UNSIZED = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no head"),
        (packed.MAGIC, "no head"),
        (b"PK\x03\x04" + bytes(40), "no head"),
        (packed.MAGIC + b"\x02" + bytes(8) + bytes(40), "version 2"),
        (packed.head(2**60) + bytes(1000), "hold 2"),
        (packed.head(1000) + block(5 * MIB, plane(FRAME)), "where 1000 are the most"),
        (packed.head(10 * MIB) + block(4 * MIB + 1, plane(FRAME)) + bytes(50), "where 4194304 are the most"),
        (packed.head(1000) + block(0, plane(FRAME)), "a block has 0 bytes"),
        (packed.head(1000) + block(1000, plane(FRAME), 3), "elements of 3"),
        (packed.head(1001) + block(1001, plane(FRAME), 2), "elements of 2"),
        (packed.head(1000) + block(1000, b"xxxx") + bytes(20), "is packed into 4"),
        (packed.head(10) + block(10, plane(FRAME)), "is packed into"),
        (packed.head(1000) + block(1000, plane(FRAME, 5)), "planes of"),
        (packed.head(1000) + block(1000, plane(b"") + plane(b"x" * 1000), 2), "planes of"),
        (packed.head(1000) + block(1000, plane(b"x" * 999)), "cannot be unpacked"),
        (packed.head(999) + block(999, plane(FRAME)), "another size"),
        (packed.head(1000) + block(1000, plane(UNSIZED)), "another size"),
        (packed.head(MIB) + block(MIB, plane(BOMB)), "another size"),
        (packed.head(1000) + block(1000, plane(FRAME + b"x")), "cannot be unpacked"),
        (packed.head(1000) + block(1000, plane(FRAME[:-1])), "cannot be unpacked"),
        (packed.head(1000) + block(1000, plane(FRAME)) + b"x", "goes on"),
    ],
)
def test_what_does_not_add_up_is_malformed(data: bytes, words: str) -> None:
    with pytest.raises(Malformed, match=words):
        unpacked(data)


def test_a_bomb_is_not_expanded() -> None:
    """Also one whose header names a small content."""
    lying = bytearray(BOMB)
    assert lying[4] >> 6 == 2, "four bytes of content size"
    at = 5 if lying[4] & 32 else 6
    lying[at : at + 4] = struct.pack("<I", MIB)
    reset_peak()
    before = memory_of().own
    for bomb in (BOMB, bytes(lying)):
        with pytest.raises(Malformed):
            unpacked(packed.head(MIB) + block(MIB, plane(bomb)))
    assert memory_of().most_own - before < 20 * MIB


def test_a_frame_may_not_ask_for_a_window_beyond_a_block() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=1)
    streamed = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=MIB)
    frame = streamed.compress(b"x" * 10) + streamed.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    frame += streamed.compress(b"x" * (MIB - 10)) + streamed.flush()
    assert (
        unpacked(packed.head(MIB) + block(MIB, plane(frame))) == b"x" * MIB
    )  # one segment: it asks for its own size
    assert planes.pack(b"x", 1)
