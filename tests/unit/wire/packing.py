"""Packed results as bytes, read block by block as the form is described."""

from edif.wire import packed, planes


def unpacked(data: bytes) -> bytes:
    """
    Raises:
        Malformed: it is none.
    """
    size = packed.read_head(data, len(data))
    rest = memoryview(data)[packed.HEAD_BYTES :]
    content = bytearray()
    while len(content) < size:
        head, rest = rest[: packed.BLOCK_HEAD_BYTES], rest[packed.BLOCK_HEAD_BYTES :]
        if len(head) < packed.BLOCK_HEAD_BYTES:
            raise packed.Malformed("it ends early")
        block = packed.read_block_head(head, size - len(content))
        payload, rest = rest[: block.payload_bytes], rest[block.payload_bytes :]
        if len(payload) < block.payload_bytes:
            raise packed.Malformed("it ends early")
        into = bytearray(block.size)
        planes.unpack(block, payload, memoryview(into))
        content += into
    if len(rest):
        raise packed.Malformed("it goes on")
    return bytes(content)
