"""A model with slots, served in virtual time from :class:`Shares` alone; what each flow got is compared with its bound.

The laws that hold at every step (nothing idles while a job may run, limits, order of arrival within a user) are asserted
as it goes. The bounds are those derived in ``docs/decisions/0010-fair-shares.md``.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import inf

from edif.core.ids import JobId
from edif.scheduler.claims import Claims
from edif.scheduler.costs import Costs
from edif.scheduler.events import Claim
from edif.scheduler.shares import Shares


class CostsThatNeverLearn(Costs):
    """Every job is expected at the default, so that fairness hangs on corrections alone."""

    def observe(self, user: str, cost_s: float) -> None:
        pass


@dataclass(frozen=True)
class Person:
    """Who sends what: ``bursts`` are (seconds, jobs), whose costs are taken from ``costs_s`` in turn."""

    name: str
    group: str
    weight: float
    bursts: tuple[tuple[float, int], ...]
    costs_s: tuple[float, ...]
    most_running: int | None = None
    priority: int = 0


@dataclass(frozen=True)
class Dispatch:
    """One decision. ``runs`` numbers, for each flow that was able to run, the time since when it always was."""

    at: float
    group: str
    user: str
    expected_s: float
    cost_s: float
    runs: dict[str, int]


@dataclass
class Job:
    name: JobId
    arrival: int
    person: Person
    cost_s: float
    tries: int = 0


@dataclass
class Flow:
    """What the service itself knows of a user or a group."""

    weight: float
    limit: int | None = None
    held_back: bool = False  # a limit, its own or its users', may stand in the way
    run: int = 0
    able: bool = False
    running: int = 0
    served: int = 0
    error_s: float = 0.0  # of the estimates of what runs
    worst_error_s: float = 0.0
    longest_s: float = 0.0  # charged or true


@dataclass
class Service:
    """Plays people against :class:`Shares`.

    Attributes:
        lose_every: every so many-th attempt is lost and its job waits again.
        pass_s: jobs run in shared passes that take so long, and end with the pass that they began in, whatever they cost; 0 if
            each runs by itself for what it costs.
        cancel_every: every so many-th job is cancelled while it waits, if it still does at the next arrival.
    """

    people: list[Person]
    slots: int
    group_weights: dict[str, float] = field(default_factory=dict)
    group_limits: dict[str, int] = field(default_factory=dict)
    patience_s: float = inf
    learns: bool = True
    lose_every: int = 0
    cancel_every: int = 0
    pass_s: float = 0.0
    make: Callable[[Claims, float], Shares] = Shares

    def __post_init__(self) -> None:
        self.shares = self.make(Claims(), self.patience_s)
        if not self.learns:
            self.shares._costs = CostsThatNeverLearn()
        self.claims = {each.name: self._claim(each) for each in self.people}
        self.users = {each.name: Flow(each.weight, each.most_running) for each in self.people}
        groups = {each.group for each in self.people}
        self.groups = {
            g: Flow(self.group_weights.get(g, 1.0), self.group_limits.get(g)) for g in sorted(groups)
        }
        for person in self.people:
            user, group = self.users[person.name], self.groups[person.group]
            user.held_back = user.limit is not None
            group.held_back |= group.limit is not None or user.held_back
        self.waiting: dict[str, dict[int, Job]] = {each.name: {} for each in self.people}
        self.jobs: dict[JobId, Job] = {}
        self.log: list[Dispatch] = []
        self.waits: dict[JobId, float] = {}
        self.ended: Counter[str] = Counter()
        self.free = self.slots
        self.now = 0.0
        self.arrivals = 0

    def _claim(self, person: Person) -> Claim:
        claim = Claim(
            person.name,
            person.group,
            person.weight,
            self.group_weights.get(person.group, 1.0),
            person.priority,
            person.most_running,
            self.group_limits.get(person.group),
        )
        self.shares._claims.note(claim)
        return claim

    # -- time ------------------------------------------------------------------------------------------
    def play(self) -> "Service":
        """Until every job has ended."""
        events: list[tuple[float, int, Person | Job]] = []
        order = count()
        for person in self.people:
            costs = [cost for _ in range(sum(n for _, n in person.bursts)) for cost in person.costs_s]
            next_cost = iter(costs)
            for at, jobs in person.bursts:
                for _ in range(jobs):
                    job = Job(JobId(f"{person.name}-{len(self.jobs)}"), 0, person, next(next_cost))
                    self.jobs[job.name] = job
                    heappush(events, (at, next(order), job))
        arrived: set[JobId] = set()
        while events:
            self.now = events[0][0]
            while events and events[0][0] == self.now:
                _, _, job = heappop(events)
                if job.name in arrived:
                    self._ends(job)
                else:
                    arrived.add(job.name)
                    self._arrives(job)
            self.shares.age(self.now)
            for job in self._dispatches():
                heappush(events, (self._ends_at(job), next(order), job))
        assert not len(self.shares), "a job is left waiting for ever"
        return self

    def _ends_at(self, job: Job) -> float:
        if not self.pass_s:
            return self.now + job.cost_s
        return (self.now // self.pass_s + 1) * self.pass_s

    def _arrives(self, job: Job) -> None:
        self.arrivals += 1
        job.arrival = self.arrivals
        self.shares.join(job.name, self.claims[job.person.name], job.arrival, self.now)
        self.waiting[job.person.name][job.arrival] = job
        for flow in (self.users[job.person.name], self.groups[job.person.group]):
            flow.longest_s = max(flow.longest_s, self.shares._costs.expected(job.person.name))
        if self.cancel_every and len(self.waits) % self.cancel_every == 0:
            user = max(self.waiting, key=lambda name: (len(self.waiting[name]), name))
            last = self.waiting[user].pop(max(self.waiting[user]))
            self.shares.drop(last.name)
            self.ended[user] += 1
        self._note()

    def _ends(self, job: Job) -> None:
        user, group = self.users[job.person.name], self.groups[job.person.group]
        expected_s = self.shares.charged(job.name)
        lost = self._is_lost(job)
        for flow in (user, group):
            flow.running -= 1
            flow.error_s -= abs(expected_s - (0.0 if lost else job.cost_s))
        self.free += 1
        job.tries += 1
        if lost:
            self.shares.restore(job.name)
            self.waiting[job.person.name][job.arrival] = job
        else:
            self.shares.settle(job.name, job.cost_s)
            self.ended[job.person.name] += 1
        self._note()

    def _is_lost(self, job: Job) -> bool:
        return bool(self.lose_every) and not job.tries and job.arrival % self.lose_every == 0

    def _dispatches(self) -> Iterator[Job]:
        while self.free:
            runs = self._note()
            able = [name for name, flow in self.users.items() if flow.able and self._group_able(name)]
            name = self.shares.take()
            self.shares.validate()
            if name is None:
                assert not able, f"a slot idles while jobs of {able} wait"
                return
            job = self.jobs[name]
            self._law_of_order(job)
            assert job.person.name in able, "a job begins against a limit"
            del self.waiting[job.person.name][job.arrival]
            self._begins(job, runs)
            yield job

    def _law_of_order(self, job: Job) -> None:
        assert job.arrival == min(self.waiting[job.person.name]), (
            f"{job.name} overtakes a job of its own user"
        )

    def _begins(self, job: Job, runs: dict[str, int]) -> None:
        person = job.person
        expected_s = self.shares.charged(job.name)
        cost_s = 0.0 if self._is_lost(job) else job.cost_s
        for flow in (self.users[person.name], self.groups[person.group]):
            flow.running += 1
            flow.served += 1
            flow.error_s += abs(expected_s - cost_s)
            flow.worst_error_s = max(flow.worst_error_s, flow.error_s)
            flow.longest_s = max(flow.longest_s, expected_s, cost_s)
            assert flow.limit is None or flow.running <= flow.limit
        self.free -= 1
        self.waits.setdefault(job.name, self.now)
        self.log.append(Dispatch(self.now, person.group, person.name, expected_s, cost_s, runs))
        self._note()

    # -- who is able to run ----------------------------------------------------------------------------
    def _group_able(self, user: str) -> bool:
        return self.groups[self.claims[user].group].able

    def _note(self) -> dict[str, int]:
        """Bring up to date which flows have a job and no limit in the way, and since when."""
        for name, flow in self.users.items():
            self._turn(flow, bool(self.waiting[name]) and self._below(flow))
        for name, flow in self.groups.items():
            able = any(f.able for user, f in self.users.items() if self.claims[user].group == name)
            self._turn(flow, able and self._below(flow))
        flows = {**self.users, **{f"group {name}": flow for name, flow in self.groups.items()}}
        return {name: flow.run for name, flow in flows.items() if flow.able}

    @staticmethod
    def _below(flow: Flow) -> bool:
        return flow.limit is None or flow.running < flow.limit

    @staticmethod
    def _turn(flow: Flow, able: bool) -> None:
        flow.run += able and not flow.able
        flow.able = able

    # -- bounds ----------------------------------------------------------------------------------------
    def check_shares(self) -> int:
        """Compare every flow with its bound over every interval; returns how many comparisons that were."""
        compared = 0
        for name, flow in self.groups.items():
            log = [(each.group, each.cost_s, each.runs.get(f"group {name}")) for each in self.log]
            compared += self._check(name, flow, self.groups, log)
        for name, flow in self.users.items():
            group = self.claims[name].group
            beside = {user: each for user, each in self.users.items() if self.claims[user].group == group}
            log = [(each.user, each.cost_s, each.runs.get(name)) for each in self.log if each.group == group]
            compared += self._check(name, flow, beside, log)
        return compared

    def _check(
        self, name: str, flow: Flow, beside: dict[str, Flow], log: list[tuple[str, float, int | None]]
    ) -> int:
        """Over all intervals of decisions throughout which the flow was able to run."""
        compared = 0
        for start, (_, _, run) in enumerate(log):
            if run is None:
                continue
            fresh = run == 1 and (start == 0 or log[start - 1][2] != 1)
            bound = Bound(name, flow, fresh=fresh)
            for other, cost_s, same_run in log[start:]:
                if same_run != run:
                    break
                bound.serve(other, beside[other], cost_s)
                assert bound.kept(), f"{name} got too little: {bound}"
                compared += 1
        return compared


@dataclass
class Bound:
    """What a flow is due at least of what it and the flows beside it got, as derived in decision 10.

    ``fresh`` means from the beginning of the flow's first backlog.
    """

    name: str
    flow: Flow
    fresh: bool
    own_s: float = 0.0
    total_s: float = 0.0
    others_s: float = 0.0
    weights: float = 0.0
    served: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.served.add(self.name)
        self.weights = self.flow.weight

    def serve(self, name: str, flow: Flow, cost_s: float) -> None:
        self.total_s += cost_s
        self.own_s += cost_s if name == self.name else 0.0
        if name not in self.served:
            self.served.add(name)
            self.weights += flow.weight
            self.others_s += flow.longest_s * (2 if flow.held_back else 1) + 3 * flow.worst_error_s

    def kept(self) -> bool:
        flow = self.flow
        share = flow.weight / self.weights
        slack_s = 2 * flow.worst_error_s if self.fresh else flow.longest_s + 3 * flow.worst_error_s
        return self.own_s >= share * (self.total_s - self.others_s) - (1 - share) * slack_s - 1e-6
