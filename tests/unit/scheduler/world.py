"""A world for the scheduler: agents, links and a record store, as plain data, and laws that hold in it.

The world plays the gateway's runtime (it carries out the actions in their order, keeps what the record store
would keep, and ends attempts once) and the agents (which obey, fail, lose their links, are killed and come
back). It checks every action against what is true. ``python -m tests.unit.scheduler.world`` prints a digest of
the decisions of random worlds, to compare between processes.
"""

import hashlib
import pickle
import random
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from edif.core.ids import AgentId, JobId, ModelId, ReplicaId
from edif.core.job import MAX_ATTEMPTS
from edif.scheduler import events as ev
from edif.scheduler.decide import Scheduler

MODELS = (ModelId("m/one"), ModelId("m/two"))
SEATS = (AgentId("a1"), AgentId("a2"), AgentId("a3"))
PATIENCE_S = 30.0
GROUPS = {"u1": "g1", "u2": "g1", "u3": "g2"}
LIMIT_OF_CALM = 400

Attempt = tuple[JobId, int]
T = TypeVar("T")


@dataclass
class Record:
    """What the record store keeps of a job."""

    model: ModelId
    arrival: int
    user: str
    priority: int
    state: str = "queued"
    attempts: int = 0
    current: tuple[int, AgentId, ReplicaId] | None = None
    cancel_asked: bool = False


@dataclass
class Replica:
    model: ModelId
    ready: bool = False


@dataclass
class Agent:
    """An agent as it truly is, and the two directions of its link."""

    id: AgentId
    linked: bool = False
    replicas: dict[ReplicaId, Replica] = field(default_factory=dict)
    attempts: dict[Attempt, ReplicaId] = field(default_factory=dict)
    unconfirmed: dict[Attempt, str] = field(default_factory=dict)
    inbox: deque[tuple[str, ...]] = field(default_factory=deque)
    outbox: deque[tuple[str, ...]] = field(default_factory=deque)

    def say(self, *message: str) -> None:
        if self.linked:
            self.outbox.append(message)

    def end(self, attempt: Attempt, outcome: str) -> None:
        del self.attempts[attempt]
        self.unconfirmed[attempt] = outcome
        self.say("ended", attempt[0], str(attempt[1]), outcome)

    def lose_replica(self, replica: ReplicaId) -> None:
        """A replica is gone, and with it what ran on it."""
        del self.replicas[replica]
        for attempt, on in list(self.attempts.items()):
            if on == replica:
                self.end(attempt, "lost")

    def obey(self, message: tuple[str, ...]) -> None:
        match message:
            case ("start", replica, model):
                self.replicas.setdefault(ReplicaId(replica), Replica(ModelId(model)))
            case ("stop", replica):
                if replica in self.replicas:
                    self.lose_replica(ReplicaId(replica))
                self.say("replica_stopped", replica)
            case ("run", job, number, replica):
                attempt = (JobId(job), int(number))
                if attempt in self.attempts or attempt in self.unconfirmed:
                    return
                self.attempts[attempt] = ReplicaId(replica)
                if replica not in self.replicas:
                    self.end(attempt, "lost")
            case ("cancel", job, number):
                if (attempt := (JobId(job), int(number))) in self.attempts:
                    self.end(attempt, "cancelled")
            case ("recorded", job, number):
                self.unconfirmed.pop((JobId(job), int(number)), None)


class World:
    """Events in, decisions carried out, laws checked after each."""

    def __init__(self) -> None:
        self.agents = {seat: Agent(seat) for seat in SEATS}
        self.away: set[AgentId] = set()
        self.store: dict[JobId, Record] = {}
        self.ended: dict[JobId, str] = {}
        self.known: dict[ReplicaId, tuple[AgentId, ModelId]] = {}
        self.ready: set[ReplicaId] = set()
        self.told_to_stop: set[ReplicaId] = set()
        self.evicted: set[ReplicaId] = set()
        self.refused: list[JobId] = []
        self.used_names: set[ReplicaId] = set()
        self.wanted: set[ModelId] = set()
        self.slots = dict.fromkeys(MODELS, 1)
        self.generation = 0
        self.now = 0.0
        self.draining = False
        self.limits: dict[str, int | None] = dict.fromkeys((*GROUPS, *GROUPS.values()))
        self.weights: dict[str, float] = dict.fromkeys(self.limits, 1.0)
        self.scheduler = Scheduler(MODELS, "g0", PATIENCE_S)
        self.history: list[tuple[ev.Event, float]] = []
        self.decisions: list[list[ev.Action]] = []
        self.past: list[tuple[Scheduler, list[tuple[ev.Event, float]], list[list[ev.Action]]]] = []

    # -- the gateway's runtime -------------------------------------------------------------------------
    def tell(self, event: ev.Event) -> list[ev.Action]:
        self._note(event)
        actions = self.scheduler.handle(event, self.now)
        self.scheduler.validate()
        self.history.append((event, self.now))
        self.decisions.append(actions)
        for action in actions:
            self._carry_out(action)
        for action in actions:
            if isinstance(action, ev.StopReplica):
                assert not self._runs_on(action.replica), "a replica is stopped under its job"
        while self.refused:
            self.tell(ev.AttemptRefused(self.refused.pop(0)))
        self._check_nothing_idles()
        return actions

    def _check_nothing_idles(self) -> None:
        """No job that may run waits while a replica that could take it has room."""
        for model in MODELS:
            waiting = self.scheduler.waiting(model)
            if not waiting:
                continue
            assert sorted(waiting) == sorted(self.scheduler.queue(model)), (
                "the order is not of those who wait"
            )
            if self.draining or not any(self._may_run(self.store[job].user) for job in waiting):
                continue
            for name, (agent, of) in self.known.items():
                able = of == model and name in self.ready and self.agents[agent].linked
                if able and name not in self.evicted:
                    full = len(self._runs_on(name)) >= self.slots[model]
                    assert full, f"{name} idles while jobs wait"

    def _may_run(self, user: str) -> bool:
        """Whether neither the user nor the group is at its limit."""
        running = [record.user for record in self.store.values() if record.current is not None]
        of_group = [GROUPS[each] for each in running]
        user_limit, group_limit = self.limits[user], self.limits[GROUPS[user]]
        return (user_limit is None or running.count(user) < user_limit) and (
            group_limit is None or of_group.count(GROUPS[user]) < group_limit
        )

    def claim(self, user: str, priority: int) -> ev.Claim:
        group = GROUPS[user]
        return ev.Claim(
            user,
            group,
            self.weights[user],
            self.weights[group],
            priority,
            self.limits[user],
            self.limits[group],
        )

    def _runs_on(self, replica: ReplicaId) -> list[Record]:
        return [r for r in self.store.values() if r.current is not None and r.current[2] == replica]

    def _note(self, event: ev.Event) -> None:
        """Which replicas the gateway may believe in after this event."""
        match event:
            case ev.ReplicaFailed(replica=replica) | ev.ReplicaStopped(replica=replica):
                _, model = self.known.pop(replica, (None, None))
                if isinstance(event, ev.ReplicaFailed) and model is not None:
                    self.wanted.discard(model)  # it may be given up, if it was loading
            case ev.ReplicaBecameReady(replica=replica) if replica in self.known:
                self.ready.add(replica)
            case ev.AgentLost(agent=agent):
                self._forget_replicas_of(agent)
                self.told_to_stop &= set(self.known)
            case ev.AgentJoined(agent=agent, replicas=replicas):
                self._forget_replicas_of(agent)
                self.known |= {held.replica: (agent, held.model) for held in replicas}
                self.ready |= {held.replica for held in replicas if held.ready}
            case ev.AttemptRemembered(agent=agent, replica=replica, model=model):
                self.known[replica] = (agent, model)

    def _forget_replicas_of(self, agent: AgentId) -> None:
        self.known = {name: at for name, at in self.known.items() if at[0] != agent}

    def _carry_out(self, action: ev.Action) -> None:
        match action:
            case ev.BeginAttempt():
                self._begin(action)
            case ev.RequeueJob(job=job, attempt=attempt):
                record = self._running(job, attempt)
                record.state, record.current = "queued", None
                assert attempt < MAX_ATTEMPTS, "a job is tried again after its last try"
            case ev.FailJob(job=job, attempt=attempt):
                self._end_by_scheduler(job, attempt, "failed")
                assert attempt in (None, MAX_ATTEMPTS), "a job is failed before its last try"
            case ev.CancelJob(job=job, attempt=attempt):
                assert self.store[job].cancel_asked, "a job is cancelled that nobody cancelled"
                self._end_by_scheduler(job, attempt, "cancelled")
            case ev.StopAttempt(job=job, attempt=attempt, agent=agent):
                assert self.store[job].cancel_asked, "an attempt is stopped that nobody cancelled"
                self._running(job, attempt)
                self._send(agent, "cancel", job, str(attempt))
            case ev.StartReplica(agent=agent, replica=replica, model=model):
                assert self.agents[agent].linked, "a replica is started on an absent agent"
                assert not self.draining, "a replica is started while the fabric drains"
                assert replica not in self.used_names, "a replica's name is used twice"
                assert model not in {of for _, of in self.known.values()}, "a second replica is started"
                self.used_names.add(replica)
                self.known[replica] = (agent, model)
                self._send(agent, "start", replica, model)
            case ev.StopReplica(agent=agent, replica=replica):
                self.told_to_stop.add(replica)
                self._send(agent, "stop", replica)
            case ev.TellWaiting(job=job, position=position):
                queue = self.scheduler.queue(self.store[job].model)
                assert position == len(queue), "not the worst position is told"
                corrected = ev.TellPositions(self.store[job].model) in self.decisions[-1]
                assert corrected or queue[-1] == job, "a wrong position is told"

    def _begin(self, action: ev.BeginAttempt) -> None:
        agent = self.agents[action.agent]
        assert agent.linked, "an attempt begins on an absent agent"
        assert not self.draining, "an attempt begins while the fabric drains"
        record = self.store[action.job]
        known = self.known.get(action.replica)
        assert known == (action.agent, record.model), "an attempt begins on a replica that is not there"
        assert len(self._runs_on(action.replica)) < self.slots[record.model], "a replica has too many jobs"
        if (
            record.state == "gone"
        ):  # the store says no; the runtime tells so when it is through with its actions
            self.ended[action.job] = record.state = "refused"
            self.refused.append(action.job)
            return
        assert record.state == "queued", "a job that is not queued begins"
        assert action.attempt == record.attempts + 1, "attempt numbers do not rise by one"
        assert action.attempt <= MAX_ATTEMPTS, "too many attempts"
        earlier = [
            job
            for job, other in self.store.items()
            if (other.model, other.user, other.priority) == (record.model, record.user, record.priority)
            and other.state == "queued"
            and other.arrival < record.arrival
        ]
        assert not earlier, f"{action.job} overtakes {earlier}"
        assert action.replica in self.ready, "an attempt begins on a replica that never was ready"
        assert action.replica not in self.told_to_stop, "an attempt begins on a replica that must stop"
        assert self._may_run(record.user), "more jobs run than a limit allows"
        record.state, record.attempts = "running", action.attempt
        record.current = (action.attempt, action.agent, action.replica)
        self._send(action.agent, "run", action.job, str(action.attempt), action.replica)

    def _running(self, job: JobId, attempt: int) -> Record:
        record = self.store[job]
        assert record.state == "running", f"{job} is {record.state}, not running"
        assert record.current is not None
        assert record.current[0] == attempt, "this is not the current attempt"
        return record

    def _end_by_scheduler(self, job: JobId, attempt: int | None, state: str) -> None:
        record = self.store[job]
        if attempt is not None:
            self._running(job, attempt)
        else:
            assert record.state in ("queued", "gone"), "a job with an attempt is ended without naming it"
        self._end(job, state)

    def _end(self, job: JobId, state: str) -> None:
        assert job not in self.ended, f"{job} ends twice"
        record = self.store[job]
        record.state, record.current = state, None
        self.ended[job] = state

    def _send(self, agent: AgentId, *message: str) -> None:
        if self.agents[agent].linked:  # as in the runtime: what is said to nobody is lost
            self.agents[agent].inbox.append(message)

    def _hear(self, agent: Agent, message: tuple[str, ...]) -> None:
        match message:
            case ("replica_ready", replica):
                self.tell(ev.ReplicaBecameReady(ReplicaId(replica)))
            case ("replica_failed", replica):
                self.tell(ev.ReplicaFailed(ReplicaId(replica), "It broke."))
            case ("replica_died", replica):
                self.tell(ev.ReplicaFailed(ReplicaId(replica), "It was killed.", died=True))
            case ("replica_stopped", replica):
                self.tell(ev.ReplicaStopped(ReplicaId(replica)))
            case ("ended", job_text, number_text, outcome):
                job, number = JobId(job_text), int(number_text)
                record = self.store[job]
                if record.current is not None and record.current[0] == number:
                    if outcome == "lost":
                        self.tell(ev.AttemptLost(job, number))
                    else:
                        self._end(job, outcome)
                        self.tell(ev.AttemptOver(job, number, len(self.history) % 7))
                else:
                    self._tell_stale(job, number)
                self._send(agent.id, "recorded", job, str(number))

    def _tell_stale(self, job: JobId, number: int) -> None:
        """What an attempt says that is not the current one must change nothing."""
        before = self.state_of_scheduler()
        assert self.tell(ev.AttemptOver(job, number, 1.0)) == []
        assert self.tell(ev.AttemptLost(job, number)) == []
        assert self.state_of_scheduler() == before, "an old attempt changed something"

    def state_of_scheduler(self) -> bytes:
        return pickle.dumps(self.scheduler)

    # -- what happens ----------------------------------------------------------------------------------
    def job_arrives(self, model: int, user: int = 0, priority: int = 0) -> None:
        job = JobId(f"j{len(self.store)}")
        of = tuple(GROUPS)[user % len(GROUPS)]
        record = self.store[job] = Record(MODELS[model % len(MODELS)], len(self.store), of, priority)
        self.tell(ev.JobQueued(job, record.model, claim=self.claim(of, priority)))

    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        self.tell(ev.Tick())

    def claim_changes(self, user: int, weight: int, most: int, of_group: int) -> None:
        """An operator gives a user or the user's group another weight and another limit; the class stays."""
        name = tuple(GROUPS)[user % len(GROUPS)]
        changed = GROUPS[name] if of_group else name
        self.weights[changed] = float(weight)
        self.limits[changed] = most or None
        self.tell(ev.ClaimChanged(self.claim(name, 0)))
        for record in self.store.values():
            if record.user == name and record.state == "queued":
                record.priority = 0

    def drain_is_asked(self) -> None:
        self.draining = True
        assert self.tell(ev.DrainAsked()) == []

    def drain_ends(self) -> None:
        self.draining = False
        self.tell(ev.DrainEnded())

    def job_arrives_twice(self, which: int) -> None:
        if job := self._pick(which, [job for job in self.store if self.scheduler.knows(job)]):
            before = self.state_of_scheduler()
            assert self.tell(ev.JobQueued(job, self.store[job].model, claim=self.claim("u3", 1))) == []
            assert self.state_of_scheduler() == before

    def job_is_cancelled(self, which: int) -> None:
        if job := self._pick(which, list(self.store)):
            self.store[job].cancel_asked = True
            self.tell(ev.CancelAsked(job))

    def job_leaves_the_store(self, which: int) -> None:
        """Someone else ended a queued job in the store: its next attempt will be refused."""
        queued = [job for job, r in self.store.items() if r.state == "queued" and self.scheduler.knows(job)]
        if job := self._pick(which, queued):
            self.store[job].state = "gone"

    def model_is_deployed(self, model: int) -> None:
        self.wanted.add(MODELS[model % len(MODELS)])
        self.tell(ev.DeployAsked(MODELS[model % len(MODELS)]))

    def model_is_evicted(self, model: int) -> None:
        self.wanted.discard(MODELS[model % len(MODELS)])
        self.evicted |= {name for name, (_, of) in self.known.items() if of == MODELS[model % len(MODELS)]}
        self.tell(ev.EvictAsked(MODELS[model % len(MODELS)]))

    def slots_change(self, model: int, slots: int) -> None:
        self.slots[MODELS[model % len(MODELS)]] = slots
        self.tell(ev.SlotsChanged(MODELS[model % len(MODELS)], slots))

    def agent_comes(self, which: int) -> None:
        """An agent says hello: for the first time, after a broken link, or on a second link beside the first."""
        agent = self.agents[SEATS[which % len(SEATS)]]
        agent.inbox.clear()
        agent.outbox.clear()
        agent.linked = True
        self.away.discard(agent.id)
        running = frozenset((*agent.attempts, *agent.unconfirmed))
        unwanted = running - set(self.scheduler.running_on(agent.id))
        for attempt in sorted(unwanted):
            agent.unconfirmed.pop(attempt, None)
            if attempt in agent.attempts:
                agent.end(attempt, "cancelled")
        for attempt, outcome in agent.unconfirmed.items():
            agent.say("ended", attempt[0], str(attempt[1]), outcome)
        held = tuple(ev.HeldReplica(name, r.model, r.ready) for name, r in agent.replicas.items())
        self.tell(ev.AgentJoined(agent.id, held, running))

    def agent_process_is_replaced(self, which: int) -> None:
        """The agent's process was killed; a new one takes its seat, without replicas and attempts."""
        agent = self.agents[SEATS[which % len(SEATS)]]
        for part in (agent.replicas, agent.attempts, agent.unconfirmed):
            part.clear()
        self.agent_comes(which)

    def link_breaks(self, which: int) -> None:
        agent = self.agents[SEATS[which % len(SEATS)]]
        if not agent.linked:
            return
        agent.linked = False
        agent.inbox.clear()
        agent.outbox.clear()
        self.away.add(agent.id)
        assert self.tell(ev.AgentAway(agent.id)) == []

    def lease_ends(self, which: int) -> None:
        if agent := self._pick(which, sorted(self.away)):
            self.away.discard(agent)
            self.tell(ev.AgentLost(agent))

    def agent_hears(self, which: int) -> None:
        if agent := self._pick(which, [a for a in self.agents.values() if a.inbox]):
            agent.obey(agent.inbox.popleft())

    def gateway_hears(self, which: int) -> None:
        if agent := self._pick(which, [a for a in self.agents.values() if a.outbox]):
            self._hear(agent, agent.outbox.popleft())

    def replica_loads(self, which: int) -> None:
        loading = [(a, n) for a in self.agents.values() for n, r in a.replicas.items() if not r.ready]
        if found := self._pick(which, loading):
            agent, name = found
            agent.replicas[name].ready = True
            agent.say("replica_ready", name)

    def replica_dies(self, which: int) -> None:
        if found := self._pick(which, [(a, n) for a in self.agents.values() for n in a.replicas]):
            agent, name = found
            agent.say("replica_died" if which % 2 else "replica_failed", name)
            agent.lose_replica(name)

    def attempt_ends(self, which: int, outcome: str = "completed") -> None:
        if found := self._pick(which, [(a, t) for a in self.agents.values() for t in a.attempts]):
            agent, attempt = found
            agent.end(attempt, outcome)

    def failure_is_told_twice(self, which: int) -> None:
        gone = sorted(self.used_names - set(self.known))
        if replica := self._pick(which, gone):
            before = self.state_of_scheduler()
            for event in (
                ev.ReplicaFailed(replica, "Again."),
                ev.ReplicaStopped(replica),
                ev.ReplicaBecameReady(replica),
            ):
                assert self.tell(event) == []
            assert self.state_of_scheduler() == before

    def gateway_restarts(self) -> None:
        """A new scheduler learns from the store what was; links are gone, agents live on."""
        self.past.append((self._fresh(), self.history, self.decisions))
        self.generation += 1
        self.scheduler = self._fresh()
        self.history, self.decisions = [], []
        self.draining = False
        for believed in (self.known, self.away, self.ready, self.told_to_stop, self.evicted):
            believed.clear()
        for model, slots in self.slots.items():
            self.tell(ev.SlotsChanged(model, slots))
        for agent in self.agents.values():
            agent.linked = False
            agent.inbox.clear()
            agent.outbox.clear()
        for job, record in list(self.store.items()):
            if record.state == "gone":
                self._end(job, "refused")
            elif record.current is not None:
                number, seat, replica = record.current
                claim = self.claim(record.user, record.priority)
                self.tell(ev.AttemptRemembered(job, record.model, number, seat, replica, claim))
                self.away.add(seat)
            elif record.state == "queued":
                claim = self.claim(record.user, record.priority)
                self.tell(ev.JobQueued(job, record.model, record.attempts, claim))
        for model in sorted(self.wanted):
            self.tell(ev.DeployAsked(model))

    def _fresh(self) -> Scheduler:
        return Scheduler(MODELS, f"g{self.generation}", PATIENCE_S)

    @staticmethod
    def _pick(which: int, among: list[T]) -> T | None:
        return among[which % len(among)] if among else None

    # -- the end ---------------------------------------------------------------------------------------
    def becomes_calm(self) -> None:
        """Agents come, messages arrive, replicas load, attempts end: then every job has ended, once."""
        if self.draining:
            self.drain_ends()
        for seat in sorted(self.away)[1:]:
            self.lease_ends(sorted(self.away).index(seat))
        for which, seat in enumerate(SEATS):
            if not self.agents[seat].linked:
                self.agent_comes(which)
        for _ in range(LIMIT_OF_CALM + 30 * len(self.store)):
            if any(agent.inbox for agent in self.agents.values()):
                self.agent_hears(0)
            elif any(agent.outbox for agent in self.agents.values()):
                self.gateway_hears(0)
            elif any(not r.ready for agent in self.agents.values() for r in agent.replicas.values()):
                self.replica_loads(0)
            elif any(agent.attempts for agent in self.agents.values()):
                self.attempt_ends(0)
            else:
                break
        else:
            raise AssertionError("the world does not come to rest")
        self._check_rest()

    def _check_rest(self) -> None:
        left = {job: record.state for job, record in self.store.items() if job not in self.ended}
        assert not left, f"jobs are lost: {left}"
        assert not [job for job in self.store if self.scheduler.knows(job)], "the scheduler knows ended jobs"
        truly = {(n, a.id, r.model) for a in self.agents.values() for n, r in a.replicas.items()}
        believed = {(name, agent, model) for name, (agent, model) in self.known.items()}
        assert truly == believed, f"replicas are leaked or forgotten: {truly ^ believed}"
        for view in self.scheduler.view():
            held = sum(1 for _, _, model in truly if model == view.model)
            assert (view.ready, view.loading, view.queued) == (held, 0, 0), "a replica hangs in between"
            assert held or view.model not in self.wanted, f"{view.model} was deployed and is not up"

    def replays(self) -> None:
        """The same events, told again, are answered with the same decisions."""
        for scheduler, history, decisions in [*self.past, (self._fresh(), self.history, self.decisions)]:
            assert [scheduler.handle(event, now) for event, now in history] == decisions


STEPS: tuple[tuple[int, Callable[[World, random.Random], None]], ...] = (
    (8, lambda world, dice: world.job_arrives(dice.randrange(2), dice.randrange(3), dice.randrange(2))),
    (4, lambda world, dice: world.time_passes(dice.randrange(20))),
    (
        1,
        lambda world, dice: world.claim_changes(
            dice.randrange(3), dice.randrange(1, 4), dice.randrange(3), dice.randrange(2)
        ),
    ),
    (1, lambda world, dice: world.drain_is_asked()),
    (2, lambda world, dice: world.drain_ends()),
    (1, lambda world, dice: world.job_arrives_twice(dice.randrange(99))),
    (2, lambda world, dice: world.job_is_cancelled(dice.randrange(99))),
    (1, lambda world, dice: world.job_leaves_the_store(dice.randrange(99))),
    (1, lambda world, dice: world.model_is_deployed(dice.randrange(2))),
    (1, lambda world, dice: world.model_is_evicted(dice.randrange(2))),
    (1, lambda world, dice: world.slots_change(dice.randrange(2), dice.randrange(1, 4))),
    (3, lambda world, dice: world.agent_comes(dice.randrange(3))),
    (1, lambda world, dice: world.agent_process_is_replaced(dice.randrange(3))),
    (2, lambda world, dice: world.link_breaks(dice.randrange(3))),
    (1, lambda world, dice: world.lease_ends(dice.randrange(3))),
    (14, lambda world, dice: world.agent_hears(dice.randrange(3))),
    (14, lambda world, dice: world.gateway_hears(dice.randrange(3))),
    (6, lambda world, dice: world.replica_loads(dice.randrange(9))),
    (1, lambda world, dice: world.replica_dies(dice.randrange(9))),
    (6, lambda world, dice: world.attempt_ends(dice.randrange(9))),
    (1, lambda world, dice: world.attempt_ends(dice.randrange(9), "lost")),
    (1, lambda world, dice: world.failure_is_told_twice(dice.randrange(9))),
    (1, lambda world, dice: world.gateway_restarts()),
)


def play(seed: int, steps: int) -> World:
    """A random world after so many steps, and then calm."""
    dice = random.Random(seed)
    world = World()
    weights = [weight for weight, _ in STEPS]
    for _, step in dice.choices(STEPS, weights, k=steps):
        step(world, dice)
    world.becomes_calm()
    return world


def _main() -> None:
    worlds, steps = int(sys.argv[1]), int(sys.argv[2])
    digest = hashlib.sha256()
    for seed in range(worlds):
        world = play(seed, steps)
        for _, _, decisions in world.past:
            digest.update(repr(decisions).encode())
        digest.update(repr(world.decisions).encode())
    print(digest.hexdigest())


if __name__ == "__main__":
    _main()
