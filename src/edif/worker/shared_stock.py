"""The shared runners of a replica that merges: in some of them jobs run together, and others stand by.

Jobs run together in one runner as long as they are few. When more come while it is busy, a second one takes them: one reads traces
and saves results, which takes one processor, while the other runs its pass.

Who has to run alone, because of what it does or of what it may have done, gets one beside them, and everybody else goes on. One more is
kept in reserve. When one that jobs are in dies, it takes its place, and they do not wait for a fork.
"""

import os
from collections.abc import Sequence

from edif.worker.runners import Runner

MOST = 5
"""Processes at once: three jobs may run alone while others run together. Each takes some tens of megabytes beside what its jobs use."""
_TOGETHER = min(2, len(os.sched_getaffinity(0)))
"""In so many jobs run together at a time. A third would only divide them."""
_FEW = 4
"""So many jobs in one runner do not overlap enough with others in a second one to pay for smaller passes."""
_RESERVE = 1


def chosen(runners: Sequence[Runner], *, alone: bool) -> Runner | None:
    """The one for the next job, if it can be taken now.

    Args:
        runners: those that are not doomed, oldest first.
        alone: whether the job must have it for itself.
    """
    together = _together(runners)
    free = [each for each in runners if each.may_take(alone=True)]
    if alone:  # who goes wrong may take it along: the reserve is not for that
        return free[-1] if len(free) > _RESERVE + (not together) else None
    may_join = [each for each in together if each.may_take(alone=False)]
    collecting = next((each for each in may_join if each.collects), None)
    if collecting is not None:
        return collecting
    if free and (not together or (len(together) < _TOGETHER and together[0].held > _FEW)):
        return free[0]
    return min(may_join, key=lambda each: each.held, default=None)


def lacking(runners: Sequence[Runner], *, wait_alone: int) -> int:
    """So many are to be forked now.

    Args:
        wait_alone: for so many more there is a job that waits to run alone.
    """
    wanted = max(len(_together(runners)), 1) + _RESERVE + wait_alone
    there = sum(not each.held_alone for each in runners)
    return min(wanted - there, MOST - len(runners))


def surplus(runners: Sequence[Runner]) -> list[Runner]:
    """Those that can go when few jobs come."""
    return [each for each in runners if each.held == 0][1 + _RESERVE :]


def _together(runners: Sequence[Runner]) -> list[Runner]:
    return [each for each in runners if each.held and not each.held_alone]
