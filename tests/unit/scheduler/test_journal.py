"""The decision log: it says all that a scheduler needs to decide the same again, and nothing else passes for it."""

from collections.abc import Iterator
from typing import get_args

import pytest

from edif.core.ids import JobId, ModelId
from edif.scheduler import events as ev
from edif.scheduler.journal import Header, JournalError, Replay, encode_header, encode_step, replay
from tests.sizes import SIZES
from tests.unit.scheduler.world import MODELS, PATIENCE_S, World, play

ONE = ModelId("m/one")
J1 = JobId("j1")
QUEUED = ev.JobQueued(J1, ONE)
TOLD = [ev.TellWaiting(J1, 1, loading=True)]


def logged(world: World) -> Iterator[bytes]:
    """A world's history, as its gateways would have written it."""
    parts = [(history, decisions) for _, history, decisions in world.past]
    for number, (history, decisions) in enumerate([*parts, (world.history, world.decisions)]):
        yield encode_header(Header(MODELS, f"g{number}", PATIENCE_S))
        for (event, now), actions in zip(history, decisions, strict=True):
            yield encode_step(now, event, actions)


def test_whatever_happens_in_a_world_replays_from_its_log() -> None:
    kinds = set()
    for seed in range(SIZES.replay_worlds):
        world = play(seed, steps=150)
        lines = list(logged(world))
        assert replay(lines) == Replay(world.generation + 1, len(lines) - world.generation - 1)
        kinds |= {type(event) for event, _ in world.history}
        kinds |= {type(event) for _, history, _ in world.past for event, _ in history}
    assert kinds == set(get_args(ev.Event)), "and every kind of event was in one of them"


def test_first_difference_is_told_by_line_and_event() -> None:
    lines = [
        encode_header(Header((ONE,), "r")),
        encode_step(1.0, QUEUED, TOLD),
        encode_step(2.0, ev.CancelAsked(J1), []),
        encode_step(3.0, ev.Tick(), [*TOLD]),
    ]
    found = replay(lines)
    assert (found.parts, found.steps) == (1, 2)
    assert found.difference is not None
    assert found.difference.startswith("Line 3, after CancelAsked: was [], is [[")


def test_death_may_cut_off_the_last_line_of_a_part_and_no_other() -> None:
    header, step = encode_header(Header((ONE,), "r")), encode_step(1.0, QUEUED, TOLD)
    assert replay([header, step, step[:20]]) == Replay(1, 1)
    assert replay([header, step, step[:20] + b"\n", header, step]) == Replay(2, 2)
    with pytest.raises(JournalError, match="Line 2 is no decision"):
        replay([header, step[:20] + b"\n", step])


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "nothing in it"),
        ([b"hello\n"], "Line 1 is no decision"),
        ([encode_step(1.0, QUEUED, TOLD)], "not the beginning"),
        ([b'{"models": 1}\n'], "does not begin a part"),
        ([encode_header(Header((ONE,), "r", version=2))], "version 2"),
        ([encode_header(Header((ONE,), "r")), b'[1.0, ["Guess", {}], []]\n'], "no known kind, 'Guess'"),
        ([encode_header(Header((ONE,), "r")), b'[1.0, ["JobQueued", {}], []]\n'], "does not fit"),
    ],
)
def test_what_is_no_decision_log_is_refused(lines: list[bytes], reason: str) -> None:
    with pytest.raises(JournalError, match=reason):
        replay(lines)
