"""Named points at which a process of the fabric ends itself, for tests alone (the setting ``faults``).

A point stands where a death would hurt: between two steps of which one is durable. Each fires once in the life of a data
folder, for the process that is started again finds the mark of its predecessor. A point that is not named costs one look
at an empty table.
"""

import os
import re
import signal
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path


class Point(StrEnum):
    """All of them. The first word says whose step it is that has just been made."""

    # in the gateway
    PAYLOAD_STORED = "payload.stored"
    """The payload is in the blob store; the job is not on record."""
    JOB_RECORDED = "job.recorded"
    """The job is on record; its client has not been answered."""
    ATTEMPT_TOLD = "attempt.told"
    """The agent has been told to begin; as a rule the attempt is not on record yet."""
    ATTEMPT_RECORDED = "attempt.recorded"
    END_HEARD = "end.heard"
    """The agent has said how the attempt ended; nothing of it is on record."""
    END_RECORDED = "end.recorded"
    """The job's end is on record; nobody has been told."""
    END_TOLD = "end.told"
    """Those who listen have been told; the payload is still there, and the agent waits for its confirmation."""
    REQUEUE_RECORDED = "requeue.recorded"
    """A lost attempt is on record as lost; the job waits again."""
    REVOCATION_RECORDED = "revocation.recorded"
    """That links to a result are revoked is on record; it still lies where they lead."""
    # in the agent
    PAYLOAD_FETCHED = "payload.fetched"
    KEPT_COMMITTED = "kept.committed"
    """What the job keeps is in the blob store; its result is not."""
    RESULT_COMMITTED = "result.committed"
    """The result is in the blob store; its end has not been said."""
    END_SAID = "end.said"
    """The end has been said; the gateway has not confirmed it."""


_left: dict[str, int] = {}
_marks = Path()


def parse(text: str) -> tuple[Point, int]:
    """``NAME:COUNT``: the point fires when a process passes it for the COUNT-th time, without a count the first time.

    Raises:
        ValueError: there is no such point, or the count is not a number above zero.
    """
    match = re.fullmatch(r"([a-z.]+)(?::([1-9]\d*))?", text)
    if match is None or match[1] not in list(Point):
        raise ValueError(f"{text!r} is not NAME:COUNT of a fault point")
    return Point(match[1]), int(match[2] or 1)


def arm(named: Iterable[str], marks: Path) -> None:
    """Have this process end itself at these points, unless their marks are in the folder ``marks`` already."""
    global _marks
    _marks = marks
    _left.clear()
    for text in named:
        name, count = parse(text)
        marks.mkdir(exist_ok=True)
        if not (marks / name).exists():
            _left[name] = count


def point(name: Point) -> None:
    """This point is passed."""
    if _left:
        _pass(name)


def _pass(name: Point) -> None:
    left = _left.get(name)
    if left is None:
        return
    _left[name] = left - 1
    if left == 1:
        (_marks / name).touch()
        os.kill(os.getpid(), signal.SIGKILL)
