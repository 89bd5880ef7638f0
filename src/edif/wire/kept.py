"""Values that stay on the fabric, as both sides speak of them.

A job's kept tensors lie one after the other in one blob, each row by row. A result has a :class:`Place` where such a tensor
was; a trace that uses it is sent with one too. Unpickled, a place becomes what :func:`opening` says: on the client a
handle, in an executor the tensor.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

ALIGNMENT = 64
"""Each kept tensor begins at a multiple of so many bytes."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a kept tensor lies.

    Attributes:
        job: which keeps it; empty in the result of that job itself.
        start: its first byte.
        shape: of the tensor.
        dtype: as torch names it, ``float32``.
    """

    job: str
    start: int
    shape: tuple[int, ...]
    dtype: str

    def __reduce__(self) -> tuple[Any, ...]:
        """As a call of :func:`at`; who notes uses meanwhile hears of this one."""
        used = _used.get()
        if used is not None:
            used.add(self.job)
        return at, (self.job, self.start, self.shape, self.dtype)


Opener = Callable[[Place], Any]

_opener: ContextVar[Opener | None] = ContextVar("opener of kept values", default=None)


_used: ContextVar[set[str] | None] = ContextVar("jobs whose kept values are being sent", default=None)


def at(job: str, start: int, shape: tuple[int, ...], dtype: str) -> Any:
    """What is at this place, for whoever unpickles it; the place itself if nobody has said what to do with it."""
    place = Place(job, start, shape, dtype)
    opener = _opener.get()
    return place if opener is None else opener(place)


@contextmanager
def opening(opener: Opener) -> Iterator[None]:
    """Within the block this thread unpickles places as what ``opener`` makes of them."""
    token = _opener.set(opener)
    try:
        yield
    finally:
        _opener.reset(token)


@contextmanager
def noting_uses() -> Iterator[set[str]]:
    """While a trace is serialised in the block: the jobs of whose kept values it makes use."""
    used: set[str] = set()
    token = _used.set(used)
    try:
        yield used
    finally:
        _used.reset(token)


def being_sent() -> bool:
    """Whether what is pickled now is a trace."""
    return _used.get() is not None
