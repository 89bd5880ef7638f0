"""The line of jobs that wait for a runner."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import takewhile

from edif.wire.link import CellLimits
from edif.worker.runners import Runner


@dataclass(slots=True, eq=False)
class Waiter:
    """A job that waits for a runner."""

    cell: CellLimits | None
    alone: bool
    runner: asyncio.Future[Runner] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


def next_ones(waiting: Iterable[Waiter]) -> list[Waiter]:
    """Who is served next: the first in the line, and, of shared jobs, the first that does not wait for the same as it.

    Who runs alone and who runs together get runners of their own, so neither waits for the other.
    """
    ones: list[Waiter] = []
    for each in takewhile(lambda each: not ones or each.cell is ones[0].cell is None, waiting):
        if not ones or each.alone is not ones[0].alone:
            ones.append(each)
    return ones[:2]
