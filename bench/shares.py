"""Fair shares at the size of a large site, in virtual time: the real scheduler, and the same one told that all is one user's.

Users in groups send jobs to one model on many replicas, a little more than these can do. A few users flood: they send half
of the jobs within the first tenth of the time. The others send unequally much all along. The second arm is order of
arrival, so that a reader sees what fairness buys.
"""

import random
import time
from array import array
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path

from bench.tables import quantile, table
from edif.core.ids import AgentId, JobId, ModelId, ReplicaId
from edif.scheduler import events as ev
from edif.scheduler.decide import Scheduler

_MODEL = ModelId("m/one")
_REPLICAS_PER_AGENT = 8
_FORECAST_EVERY = 40_000  # events
_PAGE_BYTES = 4096


@dataclass(frozen=True)
class Site:
    """How large, and how much is asked for in relation to what there is: ``load`` 1.1 is a tenth too much."""

    users: int = 10_000
    groups: int = 200
    replicas: int = 1_000
    jobs: int = 1_000_000
    flooders: int = 20
    load: float = 1.1
    seed: int = 1


@dataclass(frozen=True)
class Demand:
    """The jobs in order of time, and when the last one comes. Seconds are virtual."""

    at: "array[float]"
    users: "array[int]"
    costs_s: "array[float]"

    @property
    def until(self) -> float:
        return self.at[-1]


def demand(site: Site) -> Demand:
    dice = random.Random(site.seed)
    means = [dice.lognormvariate(0.5, 0.8) for _ in range(site.users)]
    activity = [1.0 / (1 + rank) ** 0.7 for rank in range(site.users)]
    half = site.jobs // 2
    senders = [number % site.flooders for number in range(half)]
    senders += dice.choices(range(site.users), activity, k=site.jobs - half)
    costs = [min(max(dice.lognormvariate(0.0, 1.0) * means[user], 0.1), 300.0) for user in senders]
    until = sum(costs) / site.replicas / site.load
    times = [dice.random() * (until / 10 if number < half else until) for number in range(site.jobs)]
    order = sorted(range(site.jobs), key=times.__getitem__)
    return Demand(
        array("d", (times[n] for n in order)),
        array("l", (senders[n] for n in order)),
        array("d", (costs[n] for n in order)),
    )


@dataclass
class Outcome:
    """What one arm did. Seconds are virtual, but for ``handled_s`` and ``forecast_s``."""

    served_s: list[float]
    waits_light: "array[float]" = field(default_factory=lambda: array("d"))
    waits_heavy: "array[float]" = field(default_factory=lambda: array("d"))
    ended: int = 0
    end: float = 0.0
    most_waiting: int = 0
    idle_while_waiting: int = 0
    handled_s: "array[float]" = field(default_factory=lambda: array("d"))
    forecast_s: list[float] = field(default_factory=list)
    memory_bytes: int = 0


class Arm:
    """One scheduler under this demand; what users were served is taken when half of the time is over."""

    def __init__(self, site: Site, demand: Demand, *, fair: bool) -> None:
        self._site = site
        self._demand = demand
        self._scheduler = Scheduler((_MODEL,), "s")
        self._ends: list[tuple[float, int]] = []
        self._now = 0.0
        users = range(site.users)
        self._claims = [
            ev.Claim(f"u{user}", f"g{user % site.groups}") if fair else ev.ANYONE for user in users
        ]
        self.outcome = Outcome([0.0] * site.users)

    def play(self) -> Outcome:
        demand, sent = self._demand, 0
        before = _memory_bytes()
        self._join_replicas()
        while sent < len(demand.at) or self._ends:
            if sent < len(demand.at) and (not self._ends or demand.at[sent] <= self._ends[0][0]):
                self._send(sent)
                sent += 1
            else:
                self._end()
            if len(self.outcome.handled_s) % _FORECAST_EVERY == 0:
                self._look(before)
        self.outcome.end = self._now
        return self.outcome

    def _join_replicas(self) -> None:
        names = [ReplicaId(f"r{number:04}") for number in range(self._site.replicas)]
        for first in range(0, len(names), _REPLICAS_PER_AGENT):
            mine = names[first : first + _REPLICAS_PER_AGENT]
            held = tuple(ev.HeldReplica(name, _MODEL, ready=True) for name in mine)
            self._tell(ev.AgentJoined(AgentId(f"a{first:04}"), held))

    def _send(self, number: int) -> None:
        self._now = self._demand.at[number]
        claim = self._claims[self._demand.users[number]]
        self._tell(ev.JobQueued(JobId(str(number)), _MODEL, claim=claim))

    def _end(self) -> None:
        self._now, number = heappop(self._ends)
        cost_s = self._demand.costs_s[number]
        if self._now <= self._demand.until / 2:
            self.outcome.served_s[self._demand.users[number]] += cost_s
        self.outcome.ended += 1
        self._tell(ev.AttemptOver(JobId(str(number)), 1, cost_s))

    def _tell(self, event: ev.Event) -> None:
        began = time.perf_counter()
        actions = self._scheduler.handle(event, self._now)
        self.outcome.handled_s.append(time.perf_counter() - began)
        for action in actions:
            if isinstance(action, ev.BeginAttempt):
                self._begin(int(action.job))
        waiting = self._scheduler.view()[0].queued
        self.outcome.most_waiting = max(self.outcome.most_waiting, waiting)
        self.outcome.idle_while_waiting += bool(waiting) and len(self._ends) < self._site.replicas

    def _begin(self, number: int) -> None:
        heavy = self._demand.users[number] < self._site.flooders
        waits = self.outcome.waits_heavy if heavy else self.outcome.waits_light
        waits.append(self._now - self._demand.at[number])
        heappush(self._ends, (self._now + self._demand.costs_s[number], number))

    def _look(self, before: int) -> None:
        self.outcome.memory_bytes = max(self.outcome.memory_bytes, _memory_bytes() - before)
        if self._scheduler.view()[0].queued > 1_000:
            began = time.perf_counter()
            self._scheduler.forecast(_MODEL, self._now)
            self.outcome.forecast_s.append(time.perf_counter() - began)


def _memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


def entitled(site: Site, demand: Demand, outcome: Outcome) -> list[float]:
    """What each user was due of the seconds served in the first half: groups fill up evenly, then their users do."""
    asked = [0.0] * site.users
    for at, user, cost_s in zip(demand.at, demand.users, demand.costs_s, strict=True):
        if at <= demand.until / 2:
            asked[user] += cost_s
    members = [range(group, site.users, site.groups) for group in range(site.groups)]
    of_groups = _fill(sum(outcome.served_s), [sum(asked[user] for user in users) for users in members])
    due = [0.0] * site.users
    for users, of_group in zip(members, of_groups, strict=True):
        for user, due_s in zip(users, _fill(of_group, [asked[user] for user in users]), strict=True):
            due[user] = due_s
    return due


def _fill(total_s: float, asked_s: list[float]) -> list[float]:
    """Max-min: everybody gets what was asked for, or an equal part of what is left."""
    given = [0.0] * len(asked_s)
    left = total_s
    order = sorted(range(len(asked_s)), key=asked_s.__getitem__)
    for done, who in enumerate(order):
        given[who] = min(asked_s[who], left / (len(order) - done))
        left -= given[who]
    return given


def jain(values: list[float]) -> float:
    """1 when all are equal, 1/n when one has all (Jain, Chiu and Hawe, 1984)."""
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


def fairness(site: Site, demand: Demand, outcome: Outcome) -> float:
    due = entitled(site, demand, outcome)
    return jain([got / of for got, of in zip(outcome.served_s, due, strict=True) if of > 0])


def measure(work: Path) -> str:
    site = Site()
    sends = demand(site)
    rows = []
    for name, fair in (("fair shares", True), ("order of arrival", False)):
        outcome = Arm(site, sends, fair=fair).play()
        rows.append(_row(name, outcome, fairness(site, sends, outcome)))
    columns = zip(("", *_ROWS), *rows, strict=True)
    header, *lines = columns
    return table(
        f"{site.jobs:,} jobs of {site.users:,} users in {site.groups} groups on {site.replicas:,} replicas, virtual time",
        header,
        lines,
    )


_ROWS = (
    "Jain's index of served / due, half of the time over",
    "wait of light users, p50, s",
    "wait of light users, p99, s",
    "wait of the flooders, p50, s",
    "wait of the flooders, p99, s",
    "last job ended at, s",
    "most jobs waiting",
    "decisions / s",
    "one decision, p50, µs",
    "one decision, p99, µs",
    "forecast of 500 starts, median (most), ms",
    "memory, MiB",
)


def _row(name: str, outcome: Outcome, index: float) -> tuple[str, ...]:
    light, heavy, handled = outcome.waits_light, outcome.waits_heavy, outcome.handled_s
    forecasts = [each * 1e3 for each in outcome.forecast_s] or [0.0]
    return (
        name,
        f"{index:.3f}",
        f"{quantile(light, 0.5):,.1f}",
        f"{quantile(light, 0.99):,.1f}",
        f"{quantile(heavy, 0.5):,.1f}",
        f"{quantile(heavy, 0.99):,.1f}",
        f"{outcome.end:,.0f}",
        f"{outcome.most_waiting:,}",
        f"{len(handled) / sum(handled):,.0f}",
        f"{quantile(handled, 0.5) * 1e6:.0f}",
        f"{quantile(handled, 0.99) * 1e6:.0f}",
        f"{quantile(forecasts, 0.5):.0f} ({max(forecasts):.0f})",
        f"{outcome.memory_bytes / 2**20:,.0f}",
    )
