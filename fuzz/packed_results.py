"""Packed results, as a client reads what it has downloaded: any bytes are a whole content of the size that they name, or
``RESULT_DAMAGED``; and what is accepted can be packed again.
"""

from random import Random

from edif.client.pieces import Pieces
from edif.client.unpacking import unpack
from edif.core import errors
from edif.core.errors import EdifError
from edif.wire import packed, planes
from fuzz.target import Target

MOST_UNPACKED = 2**20
"""What an input names beyond it is not tried: it would only take long."""


def check_packed(data: bytes) -> bool:
    """The first byte says how long the pieces are in which it arrives."""
    step, data = (data[0] + 1 if data else 1), data[1:]
    try:
        size = packed.read_head(data, len(data))
    except packed.Malformed:
        return False
    if size > MOST_UNPACKED:
        return False
    content = memoryview(bytearray(size))
    arriving = (memoryview(data)[start : start + step] for start in range(0, len(data), step))
    try:
        unpack(Pieces(arriving), content)
    except EdifError as error:
        if error.kind is not errors.RESULT_DAMAGED:
            raise
        return False
    again = pack(bytes(content), 2)
    twice = memoryview(bytearray(size))
    unpack(Pieces(iter([memoryview(again)])), twice)
    assert twice == content, "a result is read otherwise than it was written"
    return True


def pack(content: bytes, width: int, block_bytes: int = packed.BLOCK_BYTES) -> bytes:
    blocks = [content[start : start + block_bytes] for start in range(0, len(content), block_bytes)]
    parts = [part for block in blocks for part in planes.pack(block, width)]
    return packed.head(len(content)) + b"".join(parts)


def packed_seeds() -> list[bytes]:
    random = Random(0)
    contents = [b"", b"x", bytes(900), b"abcd" * 300, random.randbytes(600)]
    return [
        bytes([step]) + pack(content, width, 500)
        for content in contents
        for width in packed.WIDTHS
        for step in (0, 16, 255)
    ]


TARGETS = {"packed": Target(check_packed, packed_seeds)}
