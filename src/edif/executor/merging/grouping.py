"""Which of the waiting requests share the next pass."""

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from edif.executor.merging.request import Request

W = TypeVar("W")


def chosen(
    waiting: Sequence[tuple[W, Request]],
    rows: int,
    tokens: int,
    bucket: Callable[[Request], Hashable | None],
) -> list[W]:
    """Those that run with the one that has waited longest, in their order; it alone if nobody is like it.

    First those of its own kind are taken, and where there is room for more those that need padding.

    Args:
        waiting: longest first.
        rows: at most so many in one pass.
        tokens: at most so many in one pass, padding included; the first one runs, however many it has.
        bucket: requests of one bucket can share a pass with padding; None for one that cannot.
    """
    _, oldest = waiting[0]
    alike = [number for number, (_, each) in enumerate(waiting) if each.kind == oldest.kind]
    taken: list[int] = []
    used_rows = longest = 0
    for number in (*alike, *_near(waiting, bucket)):
        request = waiting[number][1]
        rows_then, longest_then = used_rows + request.rows, max(longest, request.length)
        if not taken or (rows_then <= rows and rows_then * longest_then <= tokens):
            taken.append(number)
            used_rows, longest = rows_then, longest_then
    return [waiting[number][0] for number in sorted(taken)]


def _near(waiting: Sequence[tuple[W, Request]], bucket: Callable[[Request], Hashable | None]) -> list[int]:
    """Those that are not of the first one's kind, but of its bucket."""
    _, oldest = waiting[0]
    wanted = bucket(oldest)
    if wanted is None:
        return []
    return [
        number
        for number, (_, each) in enumerate(waiting)
        if each.kind != oldest.kind and bucket(each) == wanted
    ]
