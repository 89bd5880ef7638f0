"""The shared runners of a replica that merges: in one of them jobs run together, and others stand by.

Who has to run alone, because of what it does or of what it may have done, gets one beside it, and everybody else goes on. One more is kept
in reserve. When the one that jobs are in dies, it takes its place, and they do not wait for a fork.
"""

from collections.abc import Sequence

from edif.worker.runners import Runner

MOST = 5
"""Processes at once: three jobs may run alone while others run together. Each takes some tens of megabytes beside what its jobs use."""
_TOGETHER = 2
"""One to run jobs together, and one in reserve."""


def chosen(runners: Sequence[Runner], *, alone: bool) -> Runner | None:
    """The one for the next job, if it can be taken now.

    Args:
        runners: those that are not doomed, oldest first.
        alone: whether the job must have it for itself.
    """
    together = next((each for each in runners if each.held and not each.held_alone), None)
    free = [each for each in runners if each.may_take(alone=True)]
    if alone:  # who goes wrong may take it along: the reserve is not for that
        return free[-1] if len(free) + (together is not None) > _TOGETHER else None
    if together is not None:  # another would only divide them
        return together if together.may_take(alone=False) else None
    return free[0] if free else None


def lacking(runners: Sequence[Runner], *, wait_alone: int) -> int:
    """So many are to be forked now.

    Args:
        wait_alone: for so many more there is a job that waits to run alone.
    """
    free = sum(not each.held_alone for each in runners)
    return min(_TOGETHER + wait_alone - free, MOST - len(runners))


def surplus(runners: Sequence[Runner]) -> list[Runner]:
    """Those that can go when few jobs come."""
    return [each for each in runners if each.held == 0][_TOGETHER:]
