"""A packed result is read: its blocks are unpacked in several threads as they come, each into its place."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from edif.client.pieces import Pieces
from edif.core import errors
from edif.core.errors import EdifError
from edif.wire import packed, planes

_THREADS = 4  # fewer processors share them
_WAITING = (
    8  # blocks that have come and are not unpacked: bounds memory when unpacking is slower than the line
)


def unpack(pieces: Pieces, view: memoryview) -> None:
    """
    Args:
        pieces: all of it, from the head on.
        view: memory of the size that the head names.

    Raises:
        EdifError: it is not whole, or not as the head of it or of a block says.
    """
    waiting: deque[Future[None]] = deque()
    try:
        with ThreadPoolExecutor(_THREADS, "edif unpacking") as pool:
            pieces.take(packed.HEAD_BYTES)
            for block, payload, place in _blocks(pieces, view):
                waiting.append(pool.submit(_unpack, block, payload, place))
                if len(waiting) > _WAITING:
                    waiting.popleft().result()
            while waiting:
                waiting.popleft().result()
    except packed.Malformed as error:
        raise EdifError(errors.RESULT_DAMAGED, f"The result cannot be unpacked: {error}.") from error


def _blocks(pieces: Pieces, view: memoryview) -> Iterator[tuple[packed.Block, memoryview, memoryview]]:
    """Each block with its payload and the memory that it belongs into."""
    at = 0
    while at < len(view):
        head = pieces.take(packed.BLOCK_HEAD_BYTES)
        if len(head) == packed.BLOCK_HEAD_BYTES:
            block = packed.read_block_head(head, len(view) - at)
            payload = pieces.take(block.payload_bytes)
        if len(head) < packed.BLOCK_HEAD_BYTES or len(payload) < block.payload_bytes:
            raise EdifError(
                errors.RESULT_DAMAGED, f"The result ends after {at} of {len(view)} unpacked bytes."
            )
        yield block, payload, view[at : at + block.size]
        at += block.size
    if pieces.read(1):
        raise packed.Malformed("something follows its last block")


def _unpack(block: packed.Block, payload: memoryview, place: memoryview) -> None:
    planes.unpack(block, payload, place)
    place.release()  # so that the mapping can go before the tensors' own is made
