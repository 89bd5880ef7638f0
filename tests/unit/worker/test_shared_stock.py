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


ROWS = 8


@dataclass(eq=False)
class One:
    """What a shared runner says of itself: ``state`` is how many jobs it has, or that one has it alone."""

    state: int | str
    collects: bool = False

    @property
    def held(self) -> int:
        return self.state if isinstance(self.state, int) else int(self.state == "alone")

    @property
    def held_alone(self) -> bool:
        return self.state == "alone"

    def may_take(self, *, alone: bool) -> bool:
        return isinstance(self.state, int) and self.state < (1 if alone else ROWS)


def _ones(states: list[int | str], collecting: int | None = None) -> list[Runner]:
    return cast(
        "list[Runner]", [One(each, collects=number == collecting) for number, each in enumerate(states)]
    )


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_stock, "_TOGETHER", 2)


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
        ([4, 0], 0, None),  # as long as they are few
        ([5, 0], 1, None),  # many overlap
        ([ROWS, 0], 1, None),
        ([ROWS, 0, 0], 1, 2),
        ([5, 3, 0], 1, None),  # a third would divide them
        ([6, 7, 0, 0], 0, 3),
        ([ROWS, ROWS, 0, 0], None, 3),
        ([ROWS, "coming"], None, None),
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


@pytest.mark.parametrize(("states", "collecting", "found"), [([5, 0], 0, 0), ([5, 3], 1, 1), ([3, 5], 1, 1)])
def test_who_comes_while_one_collects_its_batch_is_in_it(
    states: list[int | str], collecting: int, found: int
) -> None:
    ones = _ones(states, collecting)
    assert shared_stock.chosen(ones, alone=False) is ones[found]


def test_one_processor_has_one_that_runs_jobs_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_stock, "_TOGETHER", 1)
    ones = _ones([5, 0])
    assert shared_stock.chosen(ones, alone=False) is ones[0]


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
        ([3, 3], 0, 1),
        ([3, 3, "coming"], 0, 0),
        ([3, 3, 0, "alone"], 2, 1),
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
