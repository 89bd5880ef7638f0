"""What a zstd frame's header says, without decompressing anything. Source: RFC 8878, section 3.1.1."""

import zstandard


def declared_size(head: bytes) -> int | None:
    """The content size that the frame's first bytes declare, None if they declare none.

    ``head`` needs at most the first 18 bytes. A header that does not parse declares nothing: whoever
    decompresses it will say what is wrong with it.
    """
    try:
        size = zstandard.frame_content_size(head)
    except zstandard.ZstdError:
        return None
    return None if size < 0 else size
