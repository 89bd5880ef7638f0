"""Which compression is chosen; speeds are this machine's, so only what no speed changes is asked."""

import pytest
import torch
import zstandard

from edif.executor.archive import Archive, lay_out
from edif.executor.compression import compressor_for

MIB = 2**20


def frame(archive: Archive) -> bytes:
    compressor = compressor_for(archive).compressobj(size=archive.size)
    return b"".join([*(compressor.compress(piece) for piece in archive.pieces()), compressor.flush()])


@pytest.mark.parametrize("mib", [1, 40])
def test_one_frame_with_its_size_that_holds_all(mib: int) -> None:
    archive = lay_out({"x": torch.randint(0, 255, (mib, MIB), dtype=torch.uint8)})
    written = frame(archive)
    assert zstandard.frame_content_size(written[:32]) == archive.size
    assert zstandard.ZstdDecompressor().decompress(written) == b"".join(map(bytes, archive.pieces()))


def test_what_compresses_well_is_compressed() -> None:
    assert len(frame(lay_out({"x": torch.zeros(10 * MIB)}))) < MIB


def test_noise_grows_by_little() -> None:
    archive = lay_out({"x": torch.randint(0, 255, (20, MIB), dtype=torch.uint8)})
    assert len(frame(archive)) < archive.size * 1.001
