"""The packed form of a result, which only clients of eDIF's own read: blocks that are packed and unpacked by themselves.

    head     "eDIFpack", the form's version (1 byte), the size of all that was packed (8)
    blocks   size of the block unpacked (4), of its payload (4), width of its elements (1), then the payload
    payload  for each plane its size (4), then the planes one after the other

Numbers are little endian. A block of elements of so many bytes has as many planes: in the first one are the first bytes of all
elements, and so on. A plane that is shorter than its share of the block is one zstd frame that names its size; else it is
the bytes themselves. ``docs/decisions/0016-packed-results.md`` says why. Here are the heads; :mod:`edif.wire.planes` has the planes.
"""

import struct
from typing import NamedTuple

from edif.core.limits import MIB

READS_HEADER, READS = "edif-reads", "packed"
"""With this header of an HTTP request a client says that it reads the form: others are told what to do instead of given a link."""
MAGIC = b"eDIFpack"
VERSION = 1
BLOCK_BYTES = 4 * MIB
"""The largest block, unpacked: what either side needs in memory for one."""
WIDTHS = (1, 2, 4, 8)

_HEAD = struct.Struct("<8sBQ")
_BLOCK = struct.Struct("<IIB")
_PLANE = struct.Struct("<I")
HEAD_BYTES, BLOCK_HEAD_BYTES, PLANE_HEAD_BYTES = _HEAD.size, _BLOCK.size, _PLANE.size
_LEAST_BLOCK_BYTES = BLOCK_HEAD_BYTES + PLANE_HEAD_BYTES + 1


class Malformed(ValueError):
    """It is no packed result; the text says what does not fit, as the end of a sentence."""


def is_packed(first: bytes | memoryview) -> bool:
    return bytes(first[: len(MAGIC)]) == MAGIC


def head(size: int) -> bytes:
    """What stands before the blocks of so many bytes in all."""
    return _HEAD.pack(MAGIC, VERSION, size)


def read_head(first: bytes | memoryview, travelled: int) -> int:
    """How many bytes it has when it is unpacked.

    Args:
        first: the beginning, at least a head if it has one.
        travelled: its size as it is.

    Raises:
        Malformed: it has no head, or one that names more than so few bytes can hold.
    """
    if len(first) < HEAD_BYTES or not is_packed(first):
        raise Malformed("it has no head")
    _, version, size = _HEAD.unpack_from(first)
    if version != VERSION:
        raise Malformed(f"it is of version {version}, and {VERSION} is known here")
    most = (travelled - HEAD_BYTES) // _LEAST_BLOCK_BYTES * BLOCK_BYTES
    if size > most:
        raise Malformed(f"it names {size} unpacked bytes, and {travelled} bytes hold {most} at most")
    return int(size)


class Block(NamedTuple):
    """One block's head.

    Attributes:
        size: unpacked.
        payload_bytes: what follows the head.
        width: of an element.
    """

    size: int
    payload_bytes: int
    width: int

    @property
    def share(self) -> int:
        """The size of each of its planes, unpacked."""
        return self.size // self.width


def block_head(block: Block) -> bytes:
    return _BLOCK.pack(*block)


def read_block_head(data: bytes | memoryview, left: int) -> Block:
    """
    Args:
        left: how many bytes are still missing from the whole.

    Raises:
        Malformed: no such block can be next.
    """
    block = Block(*_BLOCK.unpack(data))
    if block.width not in WIDTHS or block.size % block.width:
        raise Malformed(f"a block of {block.size} bytes has elements of {block.width}")
    if not 0 < block.size <= min(left, BLOCK_BYTES):
        raise Malformed(f"a block has {block.size} bytes where {min(left, BLOCK_BYTES)} are the most")
    heads = block.width * PLANE_HEAD_BYTES
    if not heads + block.width <= block.payload_bytes <= heads + block.size:
        raise Malformed(f"a block of {block.size} bytes is packed into {block.payload_bytes}")
    return block


def plane_heads(sizes: list[int]) -> bytes:
    return b"".join(map(_PLANE.pack, sizes))


def read_plane_sizes(block: Block, payload: memoryview) -> list[int]:
    """How many bytes of the payload each plane has.

    Raises:
        Malformed: they do not add up, or a plane is longer than its share.
    """
    heads = block.width * PLANE_HEAD_BYTES
    sizes = [size for (size,) in _PLANE.iter_unpack(payload[:heads])]
    if sum(sizes) != block.payload_bytes - heads or not all(0 < size <= block.share for size in sizes):
        raise Malformed(f"planes of {sizes} bytes stand in a block of {block.size}")
    return sizes
