"""The decision log: every event with its time and what the scheduler decided, one line of JSON each.

A part begins with a :class:`Header`, from which the same scheduler can be made again; each start of a gateway begins a new
part. :func:`replay` plays a log into fresh schedulers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import msgspec

from edif.core.ids import ModelId
from edif.scheduler import events as ev
from edif.scheduler.decide import PATIENCE_S, Scheduler

VERSION = 1

_EVENTS: dict[str, type] = {kind.__name__: kind for kind in get_args(ev.Event)}


class JournalError(Exception):
    """The log does not say what a decision log says; the text tells where."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a scheduler is made from: the arguments of :class:`Scheduler`, in their order."""

    models: tuple[ModelId, ...]
    prefix: str
    patience_s: float = PATIENCE_S
    version: int = VERSION

    def scheduler(self) -> Scheduler:
        return Scheduler(self.models, self.prefix, self.patience_s)


class _Step(msgspec.Struct, array_like=True, frozen=True):
    """Events and actions as [kind, fields]."""

    now: float
    event: tuple[str, dict[str, Any]]
    actions: list[tuple[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Replay:
    """What became of a log.

    Attributes:
        parts: schedulers that were made.
        steps: events that were played.
        difference: where a scheduler first decided otherwise, and how; None if none did.
    """

    parts: int
    steps: int
    difference: str | None = None


def encode_header(header: Header) -> bytes:
    return msgspec.json.encode(header) + b"\n"


def encode_step(now: float, event: ev.Event, actions: Sequence[ev.Action]) -> bytes:
    return msgspec.json.encode(_Step(now, _named(event), [_named(action) for action in actions])) + b"\n"


def replay(lines: Iterable[bytes]) -> Replay:
    """Play a log up to the first difference. A line that a death cut off may stand at the end of a part.

    Raises:
        JournalError: a line is something else, or of another version of the log.
    """
    scheduler: Scheduler | None = None
    parts = steps = 0
    torn: JournalError | None = None
    for number, line in enumerate(lines, start=1):
        if line.startswith(b"{"):
            scheduler, torn = _header(number, line).scheduler(), None
            parts += 1
            continue
        if torn is not None:
            raise torn
        try:
            step = msgspec.json.decode(line, type=_Step)
        except msgspec.DecodeError as error:
            torn = JournalError(f"Line {number} is no decision: {error}.")
            continue
        if scheduler is None:
            raise JournalError("The first line is not the beginning of a part.")
        difference = _play(scheduler, step, number)
        steps += 1
        if difference is not None:
            return Replay(parts, steps, difference)
    if not parts:
        raise torn or JournalError("There is nothing in it.")
    return Replay(parts, steps)


def _header(number: int, line: bytes) -> Header:
    try:
        header = msgspec.json.decode(line, type=Header)
    except msgspec.DecodeError as error:
        raise JournalError(f"Line {number} does not begin a part: {error}.") from error
    if header.version != VERSION:
        raise JournalError(f"Line {number} begins a part of version {header.version}, not {VERSION}.")
    return header


def _play(scheduler: Scheduler, step: _Step, number: int) -> str | None:
    """How the scheduler now decides otherwise than it did then."""
    kind, fields = step.event
    if kind not in _EVENTS:
        raise JournalError(f"Line {number} has an event of no known kind, {kind!r}.")
    try:
        event: ev.Event = msgspec.convert(fields, _EVENTS[kind])
    except msgspec.ValidationError as error:
        raise JournalError(f"Line {number} has an event that does not fit: {error}.") from error
    decided = [_named(action) for action in scheduler.handle(event, step.now)]
    if decided == step.actions:
        return None
    return f"Line {number}, after {kind}: was {_shown(step.actions)}, is {_shown(decided)}."


def _named(value: ev.Event | ev.Action) -> tuple[str, dict[str, Any]]:
    return type(value).__name__, msgspec.to_builtins(value)


def _shown(actions: list[tuple[str, dict[str, Any]]]) -> str:
    return msgspec.json.encode(actions).decode()
