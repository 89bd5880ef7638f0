"""When a job of a shared runner has kept the others for too long."""

import math

import pytest

from edif.executor.merging import patience
from edif.wire.turn_register import NOBODY, TurnNote
from edif.worker.turn_watch import LEAST_S, due


def test_it_counts_from_when_the_stretch_began_and_others_were_there() -> None:
    assert due(TurnNote(1, since_s=50.0, most_s=0.0), several_since=40.0, now=51.0) == 50.0 + LEAST_S
    assert due(TurnNote(1, since_s=50.0, most_s=0.0), several_since=90.0, now=91.0) == 90.0 + LEAST_S


def test_nobody_keeps_nobody() -> None:
    assert due(TurnNote(NOBODY, since_s=50.0), several_since=40.0, now=1e6) is None


@pytest.mark.parametrize("allowed_s", [patience.LEAST_S, patience.MOST_S, patience.UNHURRIED_S])
def test_it_is_well_above_what_the_runner_itself_allows(allowed_s: float) -> None:
    at = due(TurnNote(1, since_s=50.0, most_s=allowed_s), several_since=40.0, now=51.0)
    assert at is not None
    assert at - 50.0 >= max(2 * allowed_s, 8 * patience.MOST_S)


@pytest.mark.parametrize("note", [TurnNote(1, 1e10, 0.0), TurnNote(1, 0.0, 1e10), TurnNote(1, 1e10, 1e10)])
def test_what_no_runner_of_ours_says_does_not_put_it_off(note: TurnNote) -> None:
    """A turn that has not begun yet begins with each look: as if it had lied in another way, and said that nobody has it."""
    at = due(note, several_since=40.0, now=50.0)
    assert at is not None
    assert at <= 50.0 + LEAST_S + 2 * patience.UNHURRIED_S
    assert math.isfinite(at)
