"""Who runs a pass next, and when: a pure function of what sealed jobs ask for and of the time.

A job that wants a pass while others are about to, waits for them a little; one that is by itself runs at once, alone, with no
more ado than if there were no merging. While a pass runs, what comes is collected without any waiting, so the busier
the model, the fuller its passes.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from edif.executor.merging.gains import Gains
from edif.executor.merging.grouping import chosen
from edif.executor.merging.holding import Holding
from edif.executor.merging.request import Request
from edif.wire.link import Merging

_LONGEST_WAIT_S = 0.025
"""For company that is about to come."""
_SHARE_OF_PASS = 0.5
"""Nor longer than this part of what a pass has taken lately."""
_LONGEST_BESIDE_S = 0.5
"""Nor longer than this beside a pass that runs: how long those of their own take is for the jobs to say."""
_NEWEST = 0.25  # the weight of the newest pass in the moving average

S = TypeVar("S", bound=Hashable)


class Together(NamedTuple, Generic[S]):
    """Run a pass for these."""

    seats: list[S]


class ByItself(NamedTuple, Generic[S]):
    """Have this one run its pass itself."""

    seat: S


@dataclass(slots=True)
class _Seat:
    admitted: float
    decided: bool = False
    request: Request | None = None
    asks_alone: bool = False
    since: float = 0.0
    alone_since: float | None = None
    kind: Hashable = None  # of the pass that it runs by itself
    in_company: bool = False  # whether others were there when that began


@dataclass(slots=True)
class Collector(Generic[S]):
    """Times are monotonic seconds.

    Attributes:
        merging: the bounds of passes.
        bucket: requests of one bucket can share a pass with padding; None for one that cannot.
        pass_s: what a pass has taken lately, on the average.
    """

    merging: Merging
    bucket: Callable[[Request], Hashable | None] = lambda _: None
    pass_s: float = 0.01
    _seats: dict[S, _Seat] = field(default_factory=dict)
    _gains: Gains = field(default_factory=Gains)
    _holding: Holding = field(default_factory=Holding)

    # -- what happens ----------------------------------------------------------------------------------
    def admitted(self, seat: S, now: float) -> None:
        self._seats[seat] = _Seat(now)

    def joins(self, seat: S, request: Request, now: float) -> None:
        each = self._seats[seat]
        each.decided, each.request, each.since = True, request, now

    def asks_alone(self, seat: S, now: float) -> None:
        each = self._seats[seat]
        each.decided, each.asks_alone, each.since = True, True, now

    def alone_over(self, seat: S, now: float, used_s: float | None = None) -> None:
        """A pass that a job ran itself is over.

        Args:
            used_s: processor time that it took, as the job says; None if it did not come to its end.
        """
        each = self._seats[seat]
        if each.alone_since is not None:
            self._observe(min(now - each.alone_since, _LONGEST_BESIDE_S))  # how long it was, the job says
            self._holding.note(now - each.alone_since)
            # One that was by itself was prepared for its pass, as those in a crowd are not.
            if each.kind is not None and used_s is not None and each.in_company:
                self._gains.alone(each.kind, used_s)
            each.alone_since = None

    def passed(self, kind: Hashable, seconds: float, jobs: int, used_s: float) -> None:
        """A shared pass of so many requests of this kind is over, which took the driver so much processor time."""
        self._observe(seconds)
        self._gains.shared(kind, used_s, jobs)

    def left(self, seat: S) -> None:
        self._seats.pop(seat, None)

    # -- what follows ----------------------------------------------------------------------------------
    def next(self, now: float) -> Together[S] | ByItself[S] | None:
        """What is to be done now; asked again until there is nothing. What it says is taken as done."""
        alone = len(self._ends(now))
        if alone < self.merging.alone_at_once:
            asking = [seat for seat, each in self._in_order() if each.asks_alone]
            if asking:
                return self._alone(asking[0], now)
        waiting = self._waiting()
        while waiting and now >= self._due(waiting, alone):
            group, kind = self._chosen(waiting), waiting[0][1].magnitude
            if self.merging.always or (len(group) > 1 and self._gains.pays(kind)):
                for seat in group:
                    self._seats[seat].request = None
                return Together(group)
            if alone < self.merging.alone_at_once:
                if len(group) > 1:
                    self._gains.leave_out(kind)
                return self._alone(group[0], now)
            # It waits for one that runs by itself, and that may be for long: others do not.
            waiting = waiting[1:]
        return None

    def next_beside(self, now: float) -> ByItself[S] | None:
        """Who runs a pass by itself while a shared one is under way: who asks for that, and who has waited for long."""
        if len(self._ends(now)) >= self.merging.alone_at_once:
            return None
        patience = min(max(self.pass_s, _LONGEST_WAIT_S), _LONGEST_BESIDE_S)
        for seat, each in self._in_order():
            late = each.request is not None and now > each.since + patience
            if each.asks_alone or (late and not self.merging.always):
                return self._alone(seat, now)
        return None

    def due_in(self, now: float) -> float | None:
        """Seconds until :meth:`next` may have something to say although nothing happens; None if it will not."""
        waiting, ends = self._waiting(), self._ends(now)
        times = [self._due(waiting[first:], len(ends)) for first in range(len(waiting))]
        if len(ends) >= self.merging.alone_at_once and self._somebody_waits:
            times.append(min(ends))
        return min((each - now for each in times if each > now), default=None)

    @property
    def _somebody_waits(self) -> bool:
        return any(each.asks_alone or each.request is not None for each in self._seats.values())

    def _ends(self, now: float) -> list[float]:
        """Of those that count as running a pass by themselves, until when they do."""
        ends = (
            each.alone_since + self._holding.most_s
            for each in self._seats.values()
            if each.alone_since is not None
        )
        return [each for each in ends if each > now]

    def _waiting(self) -> list[tuple[S, Request]]:
        return [(seat, each.request) for seat, each in self._in_order() if each.request is not None]

    def _due(self, waiting: list[tuple[S, Request]], alone: int) -> float:
        """When the one that has waited longest has waited long enough for others like it."""
        since = self._seats[waiting[0][0]].since
        group = self._chosen(waiting)
        full = len(group) < len(waiting) or sum(self._rows(each) for each in group) >= self.merging.rows
        if full:
            return since
        if self.merging.always:
            undecided = any(not each.decided for each in self._seats.values())
            return since + (self.merging.wait_s if undecided or len(group) == 1 else 0.0)
        wait = min(_LONGEST_WAIT_S, _SHARE_OF_PASS * self.pass_s)
        coming = any(not each.decided and each.admitted > since - 4 * wait for each in self._seats.values())
        if coming:
            return since + wait
        if alone and len(group) == 1:
            # Somebody's own pass is under way: others will come in its course.
            return since + min(self.pass_s, _LONGEST_BESIDE_S)
        return since

    def _chosen(self, waiting: list[tuple[S, Request]]) -> list[S]:
        return chosen(waiting, self.merging.rows, self.merging.tokens, self.bucket)

    def _rows(self, seat: S) -> int:
        request = self._seats[seat].request
        return 0 if request is None else request.rows

    def _in_order(self) -> list[tuple[S, _Seat]]:
        return sorted(self._seats.items(), key=lambda item: item[1].since)

    def _alone(self, seat: S, now: float) -> ByItself[S]:
        each = self._seats[seat]
        each.kind = None if each.request is None else each.request.magnitude
        each.request, each.asks_alone, each.alone_since = None, False, now
        each.in_company = len(self._seats) > 1
        return ByItself(seat)

    def _observe(self, seconds: float) -> None:
        self.pass_s += _NEWEST * (seconds - self.pass_s)
