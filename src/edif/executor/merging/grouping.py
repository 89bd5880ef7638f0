"""Which of the waiting requests share the next pass."""

from collections.abc import Sequence
from typing import TypeVar

from edif.executor.merging.request import Request

W = TypeVar("W")


def chosen(waiting: Sequence[tuple[W, Request]], rows: int, tokens: int) -> list[W]:
    """Those that run with the one that has waited longest, in their order; it alone if nobody is like it.

    Args:
        waiting: longest first.
        rows: at most so many in one pass.
        tokens: at most so many in one pass; the first one runs, however many it has.
    """
    _, oldest = waiting[0]
    taken: list[W] = []
    used_rows = used_tokens = 0
    for who, request in waiting:
        fits = used_rows + request.rows <= rows and used_tokens + request.size <= tokens
        if request.kind == oldest.kind and (fits or not taken):
            taken.append(who)
            used_rows += request.rows
            used_tokens += request.size
    return taken
