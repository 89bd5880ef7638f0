"""The pieces of a download as one stream that is read from its beginning to its end."""

from collections.abc import Iterator


class Pieces:
    STEP_BYTES = 2**17

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Up to so many bytes; none at the end."""
        return bytes(self._next(size))

    def take(self, size: int) -> memoryview:
        """So many bytes, fewer only at the end; where it can be, they are not copied."""
        part = self._next(size)
        if len(part) == size:
            return part
        found = bytearray(part)
        while len(found) < size and (part := self._next(size - len(found))):
            found += part
        return memoryview(found)

    def _next(self, size: int) -> memoryview:
        while not len(self._rest):
            piece = next(self._pieces, None)
            if piece is None:
                return self._rest
            self._rest = piece
        part, self._rest = self._rest[:size], self._rest[size:]
        return part
