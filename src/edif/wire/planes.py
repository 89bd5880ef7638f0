"""Blocks of a packed result: their elements taken apart into planes of bytes, each compressed by itself, and put together again.

Neighbouring floats have like exponents and unlike mantissas. As they lie in memory, zstd sees noise with a pattern in it; in
planes it sees the pattern and leaves the noise alone. numpy and zstandard let other threads run meanwhile.
"""

import numpy as np
import zstandard

from edif.wire.packed import BLOCK_BYTES, Block, Malformed, block_head, plane_heads, read_plane_sizes

# Byte by byte values repeat by chance: what is gained is Huffman's. Looking for long repetitions alone, in a small table, is
# twice as fast as level 1 and leaves less.
_PARAMETERS = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST,
    min_match=7,
    hash_log=8,
    window_log=17,
    chain_log=6,
    search_log=1,
    write_content_size=True,
)
_PAYS = 0.98  # a plane that keeps more than so much of its size is left as it is
_TRIED_BYTES = 8 * 1024  # of it at each of so many places, before all of it is
_TRIED_PLACES = 4

_Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]


def pack(content: bytes | memoryview, width: int) -> list[bytes | memoryview]:
    """One block, in parts that are to be written one after the other.

    Args:
        content: at most ``BLOCK_BYTES``, and not nothing.
        width: of its elements, in bytes; whole ones, else it is packed as bytes.
    """
    if len(content) % width:
        width = 1
    compressor = zstandard.ZstdCompressor(compression_params=_PARAMETERS)
    values = np.frombuffer(content, np.uint8).reshape(-1, width)
    planes = [_packed(np.ascontiguousarray(values[:, byte]), compressor) for byte in range(width)]
    if all(len(plane) == len(values) for plane in planes):
        width, planes = 1, [memoryview(content)]
    sizes = [len(plane) for plane in planes]
    heads = plane_heads(sizes)
    return [block_head(Block(len(content), len(heads) + sum(sizes), width)), heads, *planes]


def _packed(plane: _Bytes, compressor: zstandard.ZstdCompressor) -> bytes | memoryview:
    if _promises(plane, compressor):
        frame = compressor.compress(plane.data)
        if len(frame) < _PAYS * len(plane):
            return frame
    return plane.data


def _promises(plane: _Bytes, compressor: zstandard.ZstdCompressor) -> bool:
    """Whether parts of it become smaller: most planes of floats are noise, and are not read twice."""
    step = len(plane) // _TRIED_PLACES
    if step < 2 * _TRIED_BYTES:
        return True
    tried = plane[: step * _TRIED_PLACES].reshape(_TRIED_PLACES, step)[:, :_TRIED_BYTES].tobytes()
    return len(compressor.compress(tried)) < _PAYS * len(tried)


def unpack(block: Block, payload: memoryview, into: memoryview) -> None:
    """Write a block's content into memory of its size.

    Raises:
        Malformed: the payload is not one of such a block.
    """
    sizes = read_plane_sizes(block, payload)
    values = np.frombuffer(into, np.uint8).reshape(-1, block.width)
    at = len(payload) - sum(sizes)
    for byte, size in enumerate(sizes):
        values[:, byte] = np.frombuffer(_unpacked(payload[at : at + size], block.share), np.uint8)
        at += size


def _unpacked(plane: memoryview, share: int) -> bytes | memoryview:
    if len(plane) == share:
        return plane
    try:
        if zstandard.frame_content_size(plane) != share:
            raise Malformed(f"a plane of {share} bytes says that it has another size")
        decompressor = zstandard.ZstdDecompressor(max_window_size=BLOCK_BYTES)
        return decompressor.decompress(plane, max_output_size=share, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Malformed(f"a plane cannot be unpacked: {error}") from error
