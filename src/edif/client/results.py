"""From what travels to what was saved: checked, unpacked and loaded, with one copy of it in memory."""

import hashlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import IO, Any, cast

import zstandard

from edif.client.download import Download, Place
from edif.client.memory import Memory
from edif.client.pieces import Pieces
from edif.client.unpacking import unpack
from edif.core import errors
from edif.core.errors import EdifError
from edif.wire import packed

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_HEADER_BYTES = 18  # the longest head of a zstd frame, which names the size of its content


def load_pushed(content: bytes) -> Any:
    """A result that came with the status, on the status socket."""
    first = memoryview(content)
    memory = Memory(_expanded_bytes(first, len(first)))
    try:
        _fill(memory.view, first, lambda _: iter(()))
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
    memory = Memory(_expanded_bytes(first, download.total))
    try:
        digest = hashlib.sha256(first)
        _fill(memory.view, first, lambda place: _hashed(download.rest(place), digest))
        if sha256 is not None and digest.hexdigest() != sha256:
            raise EdifError(
                errors.RESULT_DAMAGED, "The result does not have the checksum that the fabric has on record."
            )
        return memory.load()
    finally:
        memory.close()


def _hashed(pieces: Iterator[memoryview], digest: Any) -> Iterator[memoryview]:
    """Each piece is hashed while the next ones are on their way."""
    for piece in pieces:
        digest.update(piece)
        yield piece


def _fill(view: memoryview, first: memoryview, rest: Callable[[Place], Iterator[memoryview]]) -> None:
    """Write a result's content into memory of its size.

    Args:
        rest: the pieces after the first one, each written into the place that is named for it.
    """
    if not (packed.is_packed(first) or _is_frame(first)):
        view[: len(first)] = first
        for piece in rest(lambda at, size: view[at : at + size]):
            piece.release()  # so that the mapping can go before the tensors' own is made
        return
    pieces = Pieces(chain([first], rest(lambda _, size: memoryview(bytearray(size)))))
    if packed.is_packed(first):
        unpack(pieces, view)
    else:
        _decompress(pieces, view)


def _is_frame(first: memoryview) -> bool:
    return bytes(first[: len(_ZSTD_MAGIC)]) == _ZSTD_MAGIC


def _expanded_bytes(first: memoryview, travelled: int) -> int:
    if packed.is_packed(first):
        try:
            return packed.read_head(first, travelled)
        except packed.Malformed as error:
            raise EdifError(errors.RESULT_DAMAGED, f"The result cannot be unpacked: {error}.") from error
    return _declared_bytes(first) if _is_frame(first) else travelled


def _declared_bytes(first: memoryview) -> int:
    try:
        size = zstandard.frame_content_size(bytes(first[:_HEADER_BYTES]))
    except zstandard.ZstdError:
        size = -1
    if size < 0:
        raise EdifError(errors.RESULT_DAMAGED, "The result does not say how large it is when it is unpacked.")
    return size


def _decompress(pieces: Pieces, view: memoryview) -> None:
    try:
        with zstandard.ZstdDecompressor().stream_reader(cast("IO[bytes]", pieces)) as reader:
            at = 0
            while at < len(view) and (size := reader.readinto(view[at:])):
                at += size
    except zstandard.ZstdError as error:
        raise EdifError(errors.RESULT_DAMAGED, f"The result cannot be unpacked: {error}.") from error
    if at < len(view):
        raise EdifError(errors.RESULT_DAMAGED, f"The result ends after {at} of {len(view)} unpacked bytes.")
    while pieces.read(Pieces.STEP_BYTES):
        pass  # what belongs to the checksum and no more to the content
