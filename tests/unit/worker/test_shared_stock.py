"""Which shared runner is for whom, and how many there are."""

from dataclasses import dataclass
from typing import Any, cast

import pytest

from edif.core.limits import MIB
from edif.wire.link import CellLimits
from edif.worker import shared_stock
from edif.worker.runners import Runner
from edif.worker.waiting import Waiter, next_ones

CELL = CellLimits(MIB, MIB, MIB, 1)


@dataclass(eq=False)
class One:
    """What a shared runner says of itself: ``state`` is how many jobs it has, or that one has it alone."""

    state: int | str

    @property
    def held(self) -> int:
        return self.state if isinstance(self.state, int) else int(self.state == "alone")

    @property
    def held_alone(self) -> bool:
        return self.state == "alone"

    def may_take(self, *, alone: bool) -> bool:
        return isinstance(self.state, int) and self.state < (1 if alone else 4)


def _ones(states: list[int | str]) -> list[Runner]:
    return cast("list[Runner]", [One(each) for each in states])


@pytest.mark.parametrize(
    ("states", "together", "alone"),
    [
        ([], None, None),
        (["coming"], None, None),
        ([0], 0, None),  # the only one is for those who run together
        ([0, "coming"], 0, None),
        ([0, 0], 0, None),  # and this one is in reserve
        ([0, 0, 0], 0, 2),
        ([2], 0, None),
        ([2, 0], 0, None),
        ([2, 0, 0], 0, 2),
        ([0, 2, 0], 1, 2),  # who is together stays so
        ([4, 0], None, None),  # and waits for a place there
        (["alone", 0], 1, None),
        (["alone", 1, 0], 1, None),
        (["alone", 1, 0, 0], 1, 3),
        (["alone", "alone", "alone", 1, 0], 3, None),
    ],
)
def test_who_runs_together_is_in_one_and_who_runs_alone_beside_it(
    states: list[int | str], together: int | None, alone: int | None
) -> None:
    ones = _ones(states)
    for wanted, by_itself in ((together, False), (alone, True)):
        found = shared_stock.chosen(ones, alone=by_itself)
        assert found is (None if wanted is None else ones[wanted]), by_itself


@pytest.mark.parametrize(
    ("states", "wait_alone", "lacking"),
    [
        ([], 0, 2),
        (["coming"], 0, 1),
        ([3], 0, 1),
        ([3, "coming"], 0, 0),
        ([3, "coming"], 1, 1),
        ([3, "coming", "coming"], 1, 0),
        ([3, 0], 9, 3),
        ([3, "alone"], 0, 1),
        ([3, 0, "alone", "alone"], 1, 1),
        ([3, 0, "alone", "alone", "alone"], 1, 0),
        ([0, 0, 0, 0], 0, -2),
    ],
)
def test_one_is_in_reserve_and_who_waits_to_run_alone_gets_one_until_there_are_as_many_as_may_be(
    states: list[int | str], wait_alone: int, lacking: int
) -> None:
    assert shared_stock.lacking(_ones(states), wait_alone=wait_alone) == lacking


def test_what_is_more_than_that_can_go() -> None:
    ones = _ones([0, "alone", 0, 0])
    assert shared_stock.surplus(ones) == [ones[3]]


async def test_who_runs_together_and_who_runs_alone_do_not_wait_for_each_other() -> None:
    def waiters(*kinds: tuple[Any, bool]) -> list[Waiter]:
        return [Waiter(cell, alone) for cell, alone in kinds]

    line = waiters((None, True), (None, True), (None, False), (None, False))
    assert next_ones(line) == [line[0], line[2]]
    line = waiters((None, False), (None, False))
    assert next_ones(line) == [line[0]]
    line = waiters((None, False), (CELL, True), (None, True))
    assert next_ones(line) == [line[0]], "after a change of isolation all wait for those before it"
    line = waiters((CELL, False), (CELL, True), (None, False))
    assert next_ones(line) == [line[0]]
    assert next_ones([]) == []
