"""From what travels to what was saved: checked, unpacked and loaded, with one copy of it in memory."""

import hashlib
from collections.abc import Iterator
from typing import IO, Any, cast

import zstandard

from edif.client.download import Download
from edif.client.memory import Memory
from edif.core import errors
from edif.core.errors import EdifError

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_HEADER_BYTES = 18  # the longest head of a zstd frame, which names the size of its content


def load_pushed(content: bytes) -> Any:
    """A result that came with the status, on the status socket."""
    first = memoryview(content)
    memory = Memory(_expanded_bytes(first) if _packed(first) else len(first))
    try:
        if _packed(first):
            _unpack(_Pieces(iter([first])), memory.view)
        else:
            memory.view[:] = first
        return memory.load()
    finally:
        memory.close()


def load_download(download: Download, sha256: str | None) -> Any:
    """A result that lies behind a link.

    Args:
        sha256: of what travels; None if the fabric names none.

    Raises:
        EdifError: it cannot be had, or is not what the fabric has on record.
    """
    first = download.first()
    packed = _packed(first)
    memory = Memory(_expanded_bytes(first) if packed else download.total)
    try:
        digest = hashlib.sha256(first)
        if packed:
            rest = download.rest(lambda _, size: memoryview(bytearray(size)))
            _unpack(_Pieces(_hashed(first, rest, digest)), memory.view)
        else:
            memory.view[: len(first)] = first
            for piece in _hashed(None, download.rest(lambda at, size: memory.view[at : at + size]), digest):
                piece.release()  # so that the mapping can go before the tensors' own is made
        if sha256 is not None and digest.hexdigest() != sha256:
            raise EdifError(
                errors.RESULT_DAMAGED, "The result does not have the checksum that the fabric has on record."
            )
        return memory.load()
    finally:
        memory.close()


def _hashed(first: memoryview | None, rest: Iterator[memoryview], digest: Any) -> Iterator[memoryview]:
    """All pieces in order, each hashed while the next ones are on their way."""
    if first is not None:
        yield first
    for piece in rest:
        digest.update(piece)
        yield piece


def _packed(first: memoryview) -> bool:
    return bytes(first[: len(_ZSTD_MAGIC)]) == _ZSTD_MAGIC


def _expanded_bytes(first: memoryview) -> int:
    try:
        size = zstandard.frame_content_size(bytes(first[:_HEADER_BYTES]))
    except zstandard.ZstdError:
        size = -1
    if size < 0:
        raise EdifError(errors.RESULT_DAMAGED, "The result does not say how large it is when it is unpacked.")
    return size


def _unpack(pieces: "_Pieces", view: memoryview) -> None:
    try:
        with zstandard.ZstdDecompressor().stream_reader(cast("IO[bytes]", pieces)) as reader:
            at = 0
            while at < len(view) and (size := reader.readinto(view[at:])):
                at += size
    except zstandard.ZstdError as error:
        raise EdifError(errors.RESULT_DAMAGED, f"The result cannot be unpacked: {error}.") from error
    if at < len(view):
        raise EdifError(errors.RESULT_DAMAGED, f"The result ends after {at} of {len(view)} unpacked bytes.")
    while pieces.read(_Pieces.STEP_BYTES):
        pass  # what belongs to the checksum and no more to the content


class _Pieces:
    """Pieces as a file that is read from its beginning to its end."""

    STEP_BYTES = 2**17

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        while not len(self._rest):
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = piece
        part, self._rest = self._rest[:size], self._rest[size:]
        return bytes(part)
