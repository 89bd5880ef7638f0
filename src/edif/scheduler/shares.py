"""The jobs of one model, and which of them is next: priority class, then group, then user, then order of arrival.

Classes are strict: the highest one with a job that may run is served. Within a class, groups share by weight, and within
a group its users do, both by start-time fair queueing over accelerator seconds (:mod:`edif.scheduler.fair`). Every class
has clocks of its own, so what a user gets in one class does not count in another. What that guarantees is derived in
``docs/decisions/0010-fair-shares.md``; nothing here knows of replicas.

A job that has waited for ``patience_s`` moves to the highest class in which jobs wait then, and again after each further
``patience_s``. There it belongs to its user's flow of that class, as if it had been sent to it: behind its user's
older jobs and before the younger ones, and with the clock of that flow. A flow that was idle there comes back at
that class's virtual time: the wait in the lower class is neither credit nor debt, only the jobs' order counts it.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from edif.core.ids import JobId
from edif.scheduler.claims import Claims
from edif.scheduler.costs import LEAST_COST_S, Costs
from edif.scheduler.events import Claim
from edif.scheduler.fair import FairQueue
from edif.scheduler.ranking import Ranking

Name = TypeVar("Name", bound=str)


class Ticket(NamedTuple):
    """A job's place.

    Attributes:
        arrival: number in the order of arrival.
        due: when it has waited long enough, in the caller's monotonic seconds.
        user, group, priority: where it waits, or waited when it was taken.
        aged: whether it came to its class by waiting.
    """

    arrival: int
    due: float
    user: str
    group: str
    priority: int
    aged: bool = False


class _Running(NamedTuple):
    ticket: Ticket
    charged_s: float
    user_backlog: int
    group_backlog: int


@dataclass(slots=True)
class _Group:
    users: FairQueue = field(default_factory=FairQueue)
    fifos: dict[str, Ranking[int, JobId]] = field(default_factory=dict)
    running: int = 0

    def copy(self) -> "_Group":
        fifos = {user: fifo.copy() for user, fifo in self.fifos.items()}
        return _Group(self.users.copy(), fifos, self.running)


@dataclass(slots=True)
class _Class:
    groups: FairQueue = field(default_factory=FairQueue)
    members: dict[str, _Group] = field(default_factory=dict)
    waiting: int = 0

    def copy(self) -> "_Class":
        members = {name: group.copy() for name, group in self.members.items()}
        return _Class(self.groups.copy(), members, self.waiting)


class Shares:
    """Jobs come in with a claim, are taken in fair order, and settled with what they cost.

    Args:
        claims: weights and limits; shared by all models, whose jobs count for the same limits.
        patience_s: how long a job waits in its class before it moves to the highest; above zero.
    """

    def __init__(self, claims: Claims, patience_s: float) -> None:
        self._claims = claims
        claims.watchers.append(self._limit_moved)
        self._patience_s = patience_s
        self._costs = Costs()
        self._classes: dict[int, _Class] = {}
        self._flows = 0  # users with waiting jobs, in each class
        self._waiting: dict[JobId, Ticket] = {}
        self._running: dict[JobId, _Running] = {}
        self._aging: Ranking[tuple[float, int], JobId] = Ranking()

    # -- questions -------------------------------------------------------------------------------------
    def __len__(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    def __contains__(self, job: JobId) -> bool:
        """Whether this job waits."""
        return job in self._waiting

    def ticket(self, job: JobId) -> Ticket:
        """Of a job that waits or runs."""
        return self._waiting[job] if job in self._waiting else self._running[job].ticket

    def charged(self, job: JobId) -> float:
        """Accelerator seconds that a running job is expected to cost."""
        return self._running[job].charged_s

    def by_arrival(self) -> list[JobId]:
        """The waiting jobs in the order in which they came, whatever their shares."""
        return sorted(self._waiting, key=lambda job: self._waiting[job].arrival)

    def by_class(self) -> list[JobId]:
        """The waiting jobs, those of higher classes first, in the order in which they came."""
        return sorted(
            self._waiting, key=lambda job: (-self._waiting[job].priority, self._waiting[job].arrival)
        )

    def one_flow(self) -> bool:
        """Whether all jobs that wait are one user's in one class, so that their order is that of arrival."""
        return self._flows <= 1

    # -- jobs come and go ------------------------------------------------------------------------------
    def join(self, job: JobId, claim: Claim, arrival: int, now: float) -> None:
        """A job waits from now on. ``claim`` has been noted in the claims."""
        self._wait(job, Ticket(arrival, now + self._patience_s, claim.user, claim.group, claim.priority))

    def remember(self, job: JobId, claim: Claim, arrival: int, now: float) -> None:
        """A job is running already, by a decision that is not known any more."""
        self.join(job, claim, arrival, now)
        self._begin(job)

    def take(self) -> JobId | None:
        """The next job; from now on it runs, charged with what it is expected to cost."""
        priority = max((each for each, kind in self._classes.items() if kind.groups.ready), default=None)
        if priority is None:
            return None
        kind = self._classes[priority]
        group = _known(kind.groups.next())
        users = kind.members[group].users
        user = _known(users.next())
        kind.groups.advance(group)
        users.advance(user)
        job = _known(kind.members[group].fifos[user].first())
        self._begin(job)
        return job

    def settle(self, job: JobId, cost_s: float) -> Ticket:
        """A running job has ended and cost so many accelerator seconds."""
        cost_s = max(LEAST_COST_S, cost_s)
        ticket = self._end(job, cost_s)
        self._costs.observe(ticket.user, cost_s)
        return ticket

    def end_as_expected(self, job: JobId) -> Ticket:
        """A running job has ended at the expected cost."""
        return self._end(job, self._running[job].charged_s)

    def forgive(self, job: JobId) -> Ticket:
        """A running job has ended by no fault of its user: it costs nothing."""
        return self._end(job, 0.0)

    def restore(self, job: JobId) -> Ticket:
        """A running job waits again, at its old place among its user's jobs, and nothing is charged."""
        ticket = self._end(job, 0.0)
        self._wait(job, ticket._replace(group=self._claims.group_of(ticket.user)))
        return ticket

    def drop(self, job: JobId) -> None:
        """A waiting job leaves."""
        self._unwait(job)

    def age(self, now: float) -> bool:
        """Move those who have waited long enough. Returns whether anyone moved."""
        moved = False
        while (job := self._aging.first()) is not None and self._aging.key(job)[0] <= now:
            ticket = self._waiting[job]
            highest = max(each for each, kind in self._classes.items() if kind.waiting)
            if ticket.priority < highest:
                moved = True
                for each in self._up_to(ticket):
                    self._move(each, self._waiting[each]._replace(priority=highest, aged=True))
            self._aging.put(job, (now + self._patience_s, ticket.arrival))
        return moved

    def _up_to(self, ticket: Ticket) -> list[JobId]:
        """A waiting job with its user's older ones in its class, which must not be overtaken by it."""
        fifo = self._classes[ticket.priority].members[ticket.group].fifos[ticket.user]
        found = []
        while (job := fifo.first()) is not None and fifo.key(job) <= ticket.arrival:
            found.append(job)
            fifo.discard(job)
        for job in found:
            fifo.put(job, self._waiting[job].arrival)
        return found

    # -- claims change ---------------------------------------------------------------------------------
    def reclaim(self, claim: Claim, *, priority: bool) -> None:
        """The user's waiting jobs go to the claim's group and, if ``priority``, to its class; who aged, never down."""
        for job in self._of(claim.user):
            ticket = self._waiting[job]
            to = claim.priority if priority else ticket.priority
            if ticket.aged:
                to = max(to, ticket.priority)
            self._move(job, ticket._replace(priority=to, group=claim.group))
        self._refresh_everywhere(claim.user, claim.group)

    def _of(self, user: str) -> list[JobId]:
        groups = [group for kind in self._classes.values() for group in kind.members.values()]
        return [job for group in groups if user in group.fifos for job in group.fifos[user].in_order()]

    def _limit_moved(self, user: str, group: str) -> None:
        """``group`` may be one that the user has left since."""
        for each in {group: None, self._claims.group_of(user): None}:
            self._refresh_everywhere(user, each)

    def _refresh_everywhere(self, user: str, group: str) -> None:
        for priority, kind in self._classes.items():
            if group in kind.members:
                self._refresh(priority, group, user)

    # -- parts -----------------------------------------------------------------------------------------
    def _wait(self, job: JobId, ticket: Ticket) -> None:
        kind = self._classes.setdefault(ticket.priority, _Class())
        group = kind.members.setdefault(ticket.group, _Group())
        if ticket.user not in group.fifos:
            group.fifos[ticket.user] = Ranking()
            self._flows += 1
        group.fifos[ticket.user].put(job, ticket.arrival)
        kind.waiting += 1
        self._waiting[job] = ticket
        self._aging.put(job, (ticket.due, ticket.arrival))
        self._refresh(ticket.priority, ticket.group, ticket.user)

    def _unwait(self, job: JobId) -> Ticket:
        ticket = self._waiting.pop(job)
        self._aging.discard(job)
        kind = self._classes[ticket.priority]
        fifos = kind.members[ticket.group].fifos
        fifos[ticket.user].discard(job)
        if not fifos[ticket.user]:
            del fifos[ticket.user]
            self._flows -= 1
        kind.waiting -= 1
        self._refresh(ticket.priority, ticket.group, ticket.user)
        self._tidy(ticket)
        return ticket

    def _move(self, job: JobId, to: Ticket) -> None:
        ticket = self._waiting[job]
        if to != ticket:
            self._unwait(job)
            self._wait(job, to)

    def _begin(self, job: JobId) -> None:
        ticket = self._waiting[job]
        kind = self._classes[ticket.priority]
        group = kind.members[ticket.group]
        cost_s = self._costs.expected(ticket.user)
        self._running[job] = _Running(
            ticket, cost_s, group.users.charge(ticket.user, cost_s), kind.groups.charge(ticket.group, cost_s)
        )
        group.running += 1
        self._claims.began(ticket.user, ticket.group)
        self._unwait(job)

    def _end(self, job: JobId, cost_s: float) -> Ticket:
        ticket, charged_s, user_backlog, group_backlog = self._running.pop(job)
        kind = self._classes[ticket.priority]
        group = kind.members[ticket.group]
        group.users.correct(ticket.user, user_backlog, cost_s - charged_s)
        kind.groups.correct(ticket.group, group_backlog, cost_s - charged_s)
        group.running -= 1
        self._claims.ended(ticket.user, ticket.group)
        self._tidy(ticket)
        return ticket

    def _refresh(self, priority: int, group_name: str, user: str) -> None:
        """Make the readiness of a user and its group in one class what it must be."""
        kind = self._classes[priority]
        group = kind.members[group_name]
        group.users.place(
            user,
            self._claims.user(user).weight,
            waiting=user in group.fifos,
            allowed=self._claims.user_may_run(user),
            credit_s=self._costs.expected(user),
        )
        kind.groups.place(
            group_name,
            self._claims.group(group_name).weight,
            waiting=bool(group.fifos),
            allowed=bool(group.users.ready) and self._claims.group_may_run(group_name),
            credit_s=self._costs.expected(user),
        )

    def _tidy(self, ticket: Ticket) -> None:
        """Forget the clocks of a group, or a class, at rest: they matter only in relation to each other."""
        kind = self._classes[ticket.priority]
        group = kind.members[ticket.group]
        if not group.fifos and not group.running:
            del kind.members[ticket.group]
            if not kind.members:
                del self._classes[ticket.priority]

    # -- copies and checks -----------------------------------------------------------------------------
    def copy(self) -> "Shares":
        """For a run that changes nothing here."""
        other = Shares(self._claims.copy(), self._patience_s)
        other._costs = self._costs.copy()
        other._classes = {priority: kind.copy() for priority, kind in self._classes.items()}
        other._flows = self._flows
        other._waiting = self._waiting.copy()
        other._running = self._running.copy()
        other._aging = self._aging.copy()
        return other

    def validate(self) -> None:
        """Assert every invariant; tests call it after each step."""
        queued = {
            job: (priority, name, user)
            for priority, kind in self._classes.items()
            for name, group in kind.members.items()
            for user, fifo in group.fifos.items()
            for job in fifo.in_order()
        }
        assert queued == {job: (t.priority, t.group, t.user) for job, t in self._waiting.items()}
        assert set(self._aging.in_order()) == set(queued), "a waiting job does not age"
        assert not set(queued) & set(self._running), "a job waits and runs"
        assert self._flows == len(set(queued.values())), "flows are miscounted"
        for kind in self._classes.values():
            assert kind.members, "a class at rest is kept"
            assert kind.waiting == sum(map(len, (f for g in kind.members.values() for f in g.fifos.values())))
            for name, group in kind.members.items():
                assert group.fifos or group.running, "a group at rest is kept"
                ready = {user for user in group.fifos if self._claims.user_may_run(user)}
                assert set(group.users.ready.in_order()) == ready, "readiness of users is wrong"
                may = bool(ready) and self._claims.group_may_run(name)
                assert (name in kind.groups.ready) == may, "readiness of a group is wrong"


def _known(name: Name | None) -> Name:
    """What cannot be missing: a ready flow has a job that waits."""
    assert name is not None
    return name
