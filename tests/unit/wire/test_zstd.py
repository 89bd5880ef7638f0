"""What a zstd frame's head declares."""

import hypothesis.strategies as st
import pytest
import zstandard
from hypothesis import given

from edif.wire.zstd import declared_size


@given(st.binary(max_size=5000))
def test_one_shot_frame_declares_its_size(content: bytes) -> None:
    frame = zstandard.ZstdCompressor().compress(content)
    assert declared_size(frame) == len(content)
    assert declared_size(frame[:18]) == len(content), "the first 18 bytes are enough"


@pytest.mark.parametrize("size", [255, 256, 65_791, 65_792, 2**32])
def test_sizes_of_every_width_are_read(size: int) -> None:
    """The header stores the size in 1, 2, 4 or 8 bytes; this one is written without its content."""
    compressor = zstandard.ZstdCompressor().compressobj(size=size)
    head = compressor.compress(b"x" * min(size, 2**18)) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    assert declared_size(head[:18]) == size


def test_streamed_frame_declares_nothing() -> None:
    compressor = zstandard.ZstdCompressor().compressobj()
    assert declared_size(compressor.compress(b"abc") + compressor.flush()) is None


@pytest.mark.parametrize("head", [b"", b"\x28", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"\x00" * 18])
def test_what_is_no_frame_declares_nothing(head: bytes) -> None:
    assert declared_size(head) is None


@given(st.binary(max_size=18), st.booleans())
def test_no_head_is_an_accident(head: bytes, magic: bool) -> None:
    size = declared_size((b"\x28\xb5\x2f\xfd" if magic else b"") + head)
    assert size is None or size >= 0
