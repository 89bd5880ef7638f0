"""Who runs a pass next: worked examples, and what holds whatever happens."""

from collections.abc import Collection
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edif.executor.merging import collecting, holding
from edif.executor.merging.collecting import ByItself, Collector, Together
from edif.executor.merging.request import Request
from edif.wire.link import Merging
from tests.sizes import SIZES

LONGEST_S = 0.025
"""For company that is about to come, while nothing runs."""


def wants(rows: int = 1, tokens: int = 4, *, generates: bool = False) -> Request:
    return Request(generates, torch.zeros(rows, tokens, dtype=torch.int64))


def bounds(
    rows: int = 8, tokens: int = 64, alone: int = 1, *, always: bool = False, wait_s: float = 0.5
) -> Merging:
    return Merging(rows, tokens, tolerance=0.0, alone_at_once=alone, always=always, wait_s=wait_s)


def collector(*seats: str, at: float = 0.0, **kwargs: Any) -> Collector[str]:
    made: Collector[str] = Collector(bounds(**kwargs))
    for seat in seats:
        made.admitted(seat, at)
    return made


# -- examples ----------------------------------------------------------------------------------------------
def test_a_lone_job_runs_at_once_by_itself() -> None:
    made = collector("a", at=0.0)
    made.joins("a", wants(), 0.001)
    assert made.next(0.001) == ByItself("a")
    assert made.next(0.001) is None


def test_two_that_are_there_run_together() -> None:
    made = collector("a", "b")
    made.joins("a", wants(), 1.0)
    made.joins("b", wants(), 1.0)
    assert made.next(1.0) == Together(["a", "b"])
    assert made.next(1.0) is None


def test_one_waits_a_little_for_another_that_has_just_come() -> None:
    made = collector("a", "b", at=1.0)
    made.joins("a", wants(), 1.001)
    assert made.next(1.001) is None
    due = made.due_in(1.001)
    assert due is not None
    assert 0 < due <= LONGEST_S
    made.joins("b", wants(), 1.002)
    assert made.next(1.002) == Together(["a", "b"])


def test_and_not_for_long() -> None:
    made = collector("a", "b", at=1.0)
    made.joins("a", wants(), 1.001)
    assert made.next(1.001 + LONGEST_S) == ByItself("a")


def test_nobody_waits_for_one_that_came_long_ago_and_does_something_else() -> None:
    made = collector("a", "b", at=1.0)
    made.joins("a", wants(), 5.0)
    assert made.next(5.0) == ByItself("a")


def test_of_two_kinds_the_one_that_has_waited_longest_runs_first() -> None:
    made = collector("a", "b", "c", "d")
    for number, (seat, tokens) in enumerate([("a", 4), ("b", 5), ("c", 4), ("d", 5)]):
        made.joins(seat, wants(tokens=tokens), 1.0 + number / 1000)
    assert made.next(2.0) == Together(["a", "c"])
    assert made.next(2.0) == Together(["b", "d"])


def test_rows_and_tokens_are_bounded() -> None:
    made = collector("a", "b", "c", rows=2)
    for seat in "abc":
        made.joins(seat, wants(), 1.0)
    assert made.next(1.0) == Together(["a", "b"])
    made = collector("a", "b", "c", tokens=8)
    for seat in "abc":
        made.joins(seat, wants(), 1.0)
    assert made.next(1.0) == Together(["a", "b"])


def test_as_many_run_by_themselves_as_may() -> None:
    made = collector("a", "b", "c", alone=2)
    for seat in "abc":
        made.asks_alone(seat, 1.0)
    assert [made.next(1.0) for _ in range(3)] == [ByItself("a"), ByItself("b"), None]
    made.alone_over("a", 2.0)
    assert made.next(2.0) == ByItself("c")


def test_who_leaves_makes_room() -> None:
    made = collector("a", "b")
    made.asks_alone("a", 1.0)
    made.asks_alone("b", 1.0)
    assert made.next(1.0) == ByItself("a")
    made.left("a")
    assert made.next(1.0) == ByItself("b")


@pytest.mark.parametrize(("others", "used_s"), [("b", None), ("", 0.001)])
def test_passes_that_jobs_stop_early_and_those_of_who_was_by_himself_do_not_say_that_merging_does_not_pay(
    others: str, used_s: float | None
) -> None:
    made = collector("a", *others)
    for start in (5.0, 6.0, 7.0):
        made.joins("a", wants(), start)
        assert made.next(start) == ByItself("a")
        made.alone_over("a", start + 0.001, used_s)
        made.passed(wants().magnitude, 0.9, 2, 0.9)
    made.admitted("b", 8.0)
    made.joins("a", wants(), 9.0)
    made.joins("b", wants(), 9.0)
    assert made.next(9.0) == Together(["a", "b"])


def test_where_merging_does_not_pay_it_is_not_tried_again_sooner_for_being_asked_often() -> None:
    made = collector("a", "b", "x")
    for start in (5.0, 6.0, 7.0):
        made.joins("a", wants(), start)
        assert made.next(start) == ByItself("a")
        made.alone_over("a", start + 0.1, 0.1)
        made.passed(wants().magnitude, 0.9, 2, 0.9)
    made.asks_alone("x", 9.0)
    assert made.next(9.0) == ByItself("x")
    made.joins("a", wants(), 9.1)
    made.joins("b", wants(), 9.1)
    assert {made.next(9.1) for _ in range(100)} == {None}


def test_one_that_does_not_give_its_turn_back_counts_no_longer_than_some_times_what_is_usual() -> None:
    made = collector("a", "b", "c", "x")
    for start in range(5):
        made.asks_alone("a", start)
        assert made.next(start) == ByItself("a")
        made.alone_over("a", start + 0.5)
    made.asks_alone("x", 10.0)
    assert made.next(10.0) == ByItself("x")
    made.asks_alone("b", 10.0)
    made.joins("c", wants(), 10.5)
    assert made.next(11.0) is None
    due = made.due_in(11.0)
    assert due == pytest.approx(3.0), "eight times half a second"
    assert made.next(11.0 + due) == ByItself("b")
    assert made.next(11.0 + due) is None, "the other is of no use yet"
    made.alone_over("x", 15.0)  # it did compute, and is one like any other now
    assert made.next(15.0) is None
    made.alone_over("b", 15.1)
    assert made.next(15.1) == ByItself("c")


def test_beside_a_shared_pass_too() -> None:
    made = collector("x", "a", "b")
    made.asks_alone("x", 0.0)
    assert made.next(0.0) == ByItself("x")
    made.asks_alone("a", 1.0)
    assert made.next_beside(holding.MOST_S - 1) is None
    assert made.next_beside(holding.MOST_S) == ByItself("a")
    made.asks_alone("b", holding.MOST_S)
    assert made.next_beside(holding.MOST_S + 1) is None


def test_who_computes_for_as_long_as_all_do_keeps_his_turn() -> None:
    made = collector("a", "b")
    for start in range(0, 300, 100):
        made.asks_alone("a", start)
        assert made.next(start) == ByItself("a")
        made.alone_over("a", start + 7.0)
    made.asks_alone("a", 500.0)
    assert made.next(500.0) == ByItself("a")
    made.asks_alone("b", 500.0)
    assert made.next(555.0) is None


def test_a_few_that_hold_their_turns_for_long_do_not_make_that_usual() -> None:
    kept = holding.Holding()
    for seconds in [0.1] * 8 + [500.0] * 7:
        kept.note(seconds)
    assert kept.most_s == holding.LEAST_S
    kept.note(500.0)
    assert kept.most_s == holding.MOST_S, "nor does anything make it more than this"


def test_those_that_are_alike_do_not_wait_behind_one_that_is_like_nobody() -> None:
    """It waits for one that runs by itself, and that may be for long."""
    made = collector("x", "a", "b", "c")
    made.asks_alone("x", 0.5)
    assert made.next(0.5) == ByItself("x")
    made.joins("a", wants(tokens=9), 1.0)
    made.joins("b", wants(), 1.1)
    made.joins("c", wants(), 1.2)
    assert made.next(1.3) == Together(["b", "c"])
    made.alone_over("x", 2.0)
    assert made.next(2.0) == ByItself("a")


def test_a_pass_that_took_long_makes_nobody_wait_for_long() -> None:
    """How long a job holds its own pass is for it to say, and it may be hostile."""
    made = collector("x", "y", "a", alone=2)
    made.asks_alone("x", 0.0)
    assert made.next(0.0) == ByItself("x")
    made.alone_over("x", 10_000.0)
    made.asks_alone("y", 10_000.0)
    assert made.next(10_000.0) == ByItself("y")
    made.joins("a", wants(), 10_001.0)
    due = made.due_in(10_001.0)
    assert due is None or due <= 0.5
    assert made.next(10_001.6) == ByItself("a")


def test_while_a_pass_runs_who_asks_for_it_and_who_is_late_runs_beside() -> None:
    made = collector("a", "b")
    made.joins("a", wants(), 1.0)
    assert made.next_beside(1.0) is None
    assert made.next_beside(2.0) == ByItself("a")
    made.asks_alone("b", 2.0)
    assert made.next_beside(2.0) is None, "one at once"
    made.alone_over("a", 2.1)
    assert made.next_beside(2.1) == ByItself("b")


def test_always_means_that_even_one_runs_in_a_shared_pass() -> None:
    made = collector("a", always=True)
    made.joins("a", wants(), 1.0)
    assert made.next(1.0) is None
    assert made.next(2.0) == Together(["a"])


def test_how_long_it_waits_before_is_said() -> None:
    made = collector("a", "b", always=True, wait_s=0.125)
    made.joins("a", wants(), 1.0)
    assert made.next(1.0) is None
    assert made.due_in(1.0) == pytest.approx(0.125)
    assert made.next(1.2) == Together(["a"])
    hasty = collector("a", "b", always=True, wait_s=0.0)
    hasty.joins("a", wants(), 1.0)
    assert hasty.next(1.0) == Together(["a"])


# -- laws --------------------------------------------------------------------------------------------------
class World(RuleBasedStateMachine):
    """A driver as it calls the collector, with jobs that come, ask, and leave at any time."""

    merging: Merging

    def __init__(self) -> None:
        super().__init__()
        self.merging = bounds(rows=4, tokens=24, alone=2, always=self.always)
        self.made: Collector[int] = Collector(self.merging)
        self.now = 1000.0
        self.idle: list[int] = []
        self.asked: dict[int, tuple[Request | None, float]] = {}
        self.alone: dict[int, float] = {}
        self.seats = 0

    always = False

    def _pick(self, among: Collection[int], data: Any) -> int:
        return data.draw(st.sampled_from(sorted(among)))

    @rule()
    def comes(self) -> None:
        self.seats += 1
        self.made.admitted(self.seats, self.now)
        self.idle.append(self.seats)

    @precondition(lambda self: self.idle)
    @rule(data=st.data(), rows=st.integers(1, 5), tokens=st.integers(1, 7), generates=st.booleans())
    def joins(self, data: Any, rows: int, tokens: int, generates: bool) -> None:
        seat = self._pick(self.idle, data)
        request = wants(rows, tokens, generates=generates)
        self.idle.remove(seat)
        self.asked[seat] = (request, self.now)
        self.made.joins(seat, request, self.now)
        self._drive()

    @precondition(lambda self: self.idle)
    @rule(data=st.data())
    def asks(self, data: Any) -> None:
        seat = self._pick(self.idle, data)
        self.idle.remove(seat)
        self.asked[seat] = (None, self.now)
        self.made.asks_alone(seat, self.now)
        self._drive()

    @precondition(lambda self: self.alone)
    @rule(data=st.data())
    def ends(self, data: Any) -> None:
        seat = self._pick(self.alone, data)
        del self.alone[seat]
        self.idle.append(seat)
        self.made.alone_over(seat, self.now)
        self._drive()

    @precondition(lambda self: self.seats)
    @rule(data=st.data())
    def leaves(self, data: Any) -> None:
        seat = data.draw(st.integers(1, self.seats))
        self.made.left(seat)
        self.alone.pop(seat, None)
        self.asked.pop(seat, None)
        if seat in self.idle:
            self.idle.remove(seat)
        self._drive()

    @rule(data=st.data(), seconds=st.sampled_from([0.0005, 0.01, 0.03, 1.0, 60.0]))
    def time_goes_by(self, data: Any, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.made.due_in(self.now)) is not None and self.now + due < until:
            self.now += due + 1e-6
            self._drive()
        self.now = max(until, self.now)
        self._drive()

    @rule(seconds=st.sampled_from([0.001, 0.2, 5.0]))
    def a_pass_has_run(self, seconds: float) -> None:
        while (step := self.made.next_beside(self.now)) is not None:
            assert isinstance(step, ByItself)
            self._answered(step.seat)
        self.now += seconds
        self.made.passed("kind", seconds, 2, seconds)
        self._drive()

    def _answered(self, seat: int) -> None:
        assert seat in self.asked, "answered twice, or without a question"
        del self.asked[seat]
        self.alone[seat] = self.now
        assert self._counted(holding.LEAST_S) <= self.merging.alone_at_once

    def _counted(self, for_s: float) -> int:
        """Those that run by themselves, and began less than so long ago."""
        return sum(self.now < since + for_s for since in self.alone.values())

    def _drive(self) -> None:
        while (step := self.made.next(self.now)) is not None:
            if isinstance(step, ByItself):
                self._answered(step.seat)
                continue
            requests = [self.asked.pop(seat)[0] for seat in step.seats]
            group = [each for each in requests if each is not None]
            assert len(group) == len(requests) >= (1 if self.merging.always else 2)
            assert len({each.kind for each in group}) == 1
            if len(group) > 1:
                assert sum(each.rows for each in group) <= self.merging.rows
                assert sum(each.size for each in group) <= self.merging.tokens
            self.idle += step.seats

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        full = self._counted(holding.MOST_S + 1e-3) >= self.merging.alone_at_once
        for seat in self._paired() if full else set(self.asked):
            request, since = self.asked[seat]
            limit = 0.0 if request is None else self._longest()
            assert self.now - since <= limit + 1e-3, (seat, request, self.now - since)

    def _paired(self) -> set[int]:
        """Those that wait and could run with another."""
        waiting = [(seat, each) for seat, (each, _) in self.asked.items() if each is not None]
        return {
            seat
            for seat, one in waiting
            for other_seat, other in waiting
            if seat != other_seat
            and one.kind == other.kind
            and one.rows + other.rows <= self.merging.rows
            and one.size + other.size <= self.merging.tokens
        }

    def _longest(self) -> float:
        if self.merging.always:
            return 0.5
        return 0.5 if self.alone else LONGEST_S

    @invariant()
    def a_lone_job_never_waits(self) -> None:
        if self.merging.always or len(self.idle) + len(self.asked) + len(self.alone) != 1:
            return
        assert not self.asked


class Forced(World):
    always = True


_settings = settings(max_examples=SIZES.worlds, stateful_step_count=SIZES.world_steps, deadline=None)
World.TestCase.settings = _settings
Forced.TestCase.settings = _settings
TestWorld = World.TestCase
TestForced = Forced.TestCase


def test_the_waits_are_those_that_are_tested() -> None:
    assert pytest.approx(collecting._LONGEST_WAIT_S) == LONGEST_S
