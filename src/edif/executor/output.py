"""What user code prints becomes LOG lines, up to a bound."""

import io
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO, cast

_FLUSH_AT = 4096
_PROMPT_PIECES = 200
"""So many lines leave at once; after them text is gathered into larger pieces."""


class _AsBytes(io.RawIOBase):
    """The relay's ``buffer``, for libraries that print bytes."""

    def __init__(self, relay: "OutputRelay") -> None:
        self._relay = relay

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._relay.write(bytes(data).decode(errors="replace"))
        return len(data)


class OutputRelay(io.TextIOBase):
    """While entered, ``print`` goes to ``send`` in whole lines; a flood is cut with one notice.

    Args:
        send: called with one piece of text, without its trailing newline.
        limit_bytes: characters that are passed on in all; the rest is counted and dropped.
    """

    def __init__(self, send: Callable[[str], None], limit_bytes: int) -> None:
        self._send = send
        self._left = limit_bytes
        self._limit = limit_bytes
        self._pending = ""
        self._pieces = 0
        self._cut = False
        self._saved: tuple[TextIO, TextIO] | None = None
        self.buffer = _AsBytes(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute there, read-only in fact
        return "utf-8"

    def __enter__(self) -> "OutputRelay":
        self._saved = (sys.stdout, sys.stderr)
        sys.stdout = sys.stderr = cast("TextIO", self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._saved is not None:
            sys.stdout, sys.stderr = self._saved
        self._emit(self._pending.removesuffix("\n"))
        self._pending = ""

    def write(self, text: str) -> int:
        if self._cut:
            return len(text)
        self._pending += text
        prompt = "\n" in text and self._pieces < _PROMPT_PIECES
        if prompt or len(self._pending) > _FLUSH_AT:
            whole, newline, rest = self._pending.rpartition("\n")
            if not newline:
                whole, rest = self._pending, ""
            self._emit(whole)
            self._pending = rest
        return len(text)

    def flush(self) -> None:
        """Nothing to do: whole lines leave at once."""

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def _emit(self, text: str) -> None:
        while text and not self._cut:
            piece, text = _first_piece(text)
            if len(piece) > self._left:
                self._cut = True
                self._send(piece[: self._left])
                self._send(f"[the rest of the output was cut: a job may print {self._limit} characters]")
                return
            self._left -= len(piece)
            self._pieces += 1
            self._send(piece)


def _first_piece(text: str) -> tuple[str, str]:
    """Split off what one message carries, between two lines if possible."""
    if len(text) <= _FLUSH_AT:
        return text, ""
    newline = text.rfind("\n", 0, _FLUSH_AT)
    return (text[:newline], text[newline + 1 :]) if newline > 0 else (text[:_FLUSH_AT], text[_FLUSH_AT:])
