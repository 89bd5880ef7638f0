"""The scheduler: a pure function of events, their times and its own state.

``handle(event, now)`` returns the actions that the gateway's runtime carries out, in order. Nothing here waits,
reads a clock or does I/O, so a bug report is a list of events with times that replays.

Which job is next is the law of :mod:`edif.scheduler.shares`; which replica takes it, the index of
:mod:`edif.scheduler.fleet`. At most one replica of each model is started; more are used when agents bring them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from edif.core import errors
from edif.core.ids import AgentId, JobId, ModelId, ReplicaId
from edif.core.job import MAX_ATTEMPTS
from edif.scheduler import events as ev
from edif.scheduler.claims import Claims, LimitMet
from edif.scheduler.fleet import Fleet, Replica, ReplicaState
from edif.scheduler.forecast import ExpectedStart, forecast
from edif.scheduler.shares import Shares, Ticket

PATIENCE_S = 600.0
"""A job that has waited so long in its class competes in the highest from then on."""
MOST_FORECAST = 500
"""Jobs of one model whose start is worked out; it bounds what a forecast costs (docs/benchmarks.md)."""


@dataclass(slots=True)
class _Model:
    shares: Shares
    wanted: bool = False  # kept up even without jobs
    deaths: int = 0  # of replicas that died while they loaded, since one was last ready


@dataclass(slots=True)
class _Job:
    model: ModelId
    attempts: int
    arrival: int
    replica: ReplicaId | None = None
    began: float = 0.0
    cancelling: bool = False


@dataclass(frozen=True, slots=True)
class ModelView:
    """What ``/status`` says about one model."""

    model: ModelId
    ready: int
    loading: int
    queued: int


class Scheduler:
    """Decides which job runs where and which replica is started.

    Args:
        models: the models that may be served.
        prefix: makes replica ids unique across restarts of the gateway.
        patience_s: how long a job waits behind higher classes.
    """

    def __init__(self, models: Iterable[ModelId], prefix: str, patience_s: float = PATIENCE_S) -> None:
        self._claims = Claims()
        self._models = {model: _Model(Shares(self._claims, patience_s)) for model in models}
        self._fleet = Fleet(list(self._models))
        self._jobs: dict[JobId, _Job] = {}
        self._prefix = prefix
        self._replica_count = 0
        self._arrivals = 0
        self._now = 0.0
        self._draining = False

    # -- questions -------------------------------------------------------------------------------------
    def view(self) -> list[ModelView]:
        count = self._fleet.count
        return [
            ModelView(
                model, count(model, ReplicaState.READY), count(model, ReplicaState.LOADING), len(state.shares)
            )
            for model, state in self._models.items()
        ]

    def queue(self, model: ModelId) -> tuple[JobId, ...]:
        """The jobs that wait for this model, next one first; those beyond the forecast by class and arrival."""
        first = dict.fromkeys(each.job for each in self.forecast(model, self._now))
        return (*first, *(job for job in self._models[model].shares.by_class() if job not in first))

    def forecast(self, model: ModelId, now: float) -> list[ExpectedStart]:
        """The next jobs of this model in their order, at most ``MOST_FORECAST``, and when each is expected to begin."""
        shares = self._models[model].shares
        free, running = self._fleet.working(model)
        if self._draining:
            free, running = 0, []
        remaining = {job: max(shares.charged(job) - (now - self._jobs[job].began), 0.0) for job in running}
        return forecast(shares, now, free, remaining, MOST_FORECAST)

    def waiting(self, model: ModelId) -> list[JobId]:
        """The jobs that wait for this model, in the order in which they came."""
        return self._models[model].shares.by_arrival()

    def limit_met(self, job: JobId) -> LimitMet | None:
        """The limit on running jobs that keeps this waiting job from beginning now."""
        ticket = self._models[self._jobs[job].model].shares.ticket(job)
        return self._claims.limit_met(ticket.user, ticket.group)

    def loading(self, model: ModelId) -> bool:
        """Whether no replica of the model is ready yet."""
        return not self._fleet.count(model, ReplicaState.READY)

    def model_of(self, replica: ReplicaId) -> ModelId | None:
        known = self._fleet.replica(replica)
        return None if known is None else known.model

    def knows(self, job: JobId) -> bool:
        return job in self._jobs

    @property
    def draining(self) -> bool:
        return self._draining

    def running(self) -> int:
        """How many jobs run; a drain is over when none does."""
        return len(self._jobs) - sum(len(model.shares) for model in self._models.values())

    def running_on(self, agent: AgentId) -> list[tuple[JobId, int]]:
        """The attempts that are believed to run on this agent."""
        jobs = [job for replica in self._fleet.replicas_on(agent) for job in self._in_order(replica)]
        return [(job, self._jobs[job].attempts) for job in jobs]

    # -- events: jobs ----------------------------------------------------------------------------------
    def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
        """Take note of ``event``, which happened at ``now`` (monotonic seconds), and say what is to be done."""
        self._now = max(self._now, now)
        handler = getattr(self, f"_on_{type(event).__name__}")
        actions: list[ev.Action] = handler(event)
        return actions

    def _on_JobQueued(self, event: ev.JobQueued) -> list[ev.Action]:
        if event.job in self._jobs:
            return []
        actions = self._note(event.claim, priority=False)
        job = self._jobs[event.job] = _Job(event.model, event.attempts, self._next_arrival())
        shares = self._models[event.model].shares
        shares.join(event.job, event.claim, job.arrival, self._now)
        actions += self._advance(event.model)
        if event.job in shares:
            actions.append(ev.TellWaiting(event.job, len(shares), self.loading(event.model)))
            if not shares.one_flow():
                actions.append(ev.TellPositions(event.model))
        return actions

    def _on_AttemptRemembered(self, event: ev.AttemptRemembered) -> list[ev.Action]:
        self._fleet.agent_known(event.agent)
        replica = self._fleet.replica(event.replica)
        if replica is None:
            replica = self._fleet.add(event.replica, event.agent, event.model, ReplicaState.READY)
        actions = self._note(event.claim, priority=False)
        arrival = self._next_arrival()
        self._jobs[event.job] = _Job(event.model, event.attempt, arrival, event.replica, self._now)
        self._models[event.model].shares.remember(event.job, event.claim, arrival, self._now)
        self._fleet.occupy(replica, event.job)
        return actions

    def _on_AttemptOver(self, event: ev.AttemptOver) -> list[ev.Action]:
        job = self._current(event.job, event.attempt)
        if job is None:
            return []
        del self._jobs[event.job]
        ticket = self._models[job.model].shares.settle(event.job, event.cost_s)
        return [*self._free(event.job, job), *self._advance_after(job.model, ticket)]

    def _on_AttemptLost(self, event: ev.AttemptLost) -> list[ev.Action]:
        job = self._current(event.job, event.attempt)
        if job is None:
            return []
        ticket = self._models[job.model].shares.ticket(event.job)
        freed = self._free(event.job, job)
        retried = self._retry(event.job, job, event.sentence)
        return [*freed, *retried, *self._advance_after(job.model, ticket)]

    def _on_AttemptRefused(self, event: ev.AttemptRefused) -> list[ev.Action]:
        job = self._jobs.get(event.job)
        if job is None or job.replica is None:
            return []
        del self._jobs[event.job]
        ticket = self._models[job.model].shares.forgive(event.job)
        return [*self._free(event.job, job), *self._advance_after(job.model, ticket)]

    def _on_CancelAsked(self, event: ev.CancelAsked) -> list[ev.Action]:
        job = self._jobs.get(event.job)
        if job is None:
            return []
        if job.replica is None:
            self._models[job.model].shares.drop(event.job)
            del self._jobs[event.job]
            return [ev.CancelJob(event.job), ev.TellPositions(job.model)]
        job.cancelling = True
        return [ev.StopAttempt(event.job, job.attempts, self._fleet.agent_of(job.replica))]

    def _on_ClaimChanged(self, event: ev.ClaimChanged) -> list[ev.Action]:
        actions = self._note(event.claim, priority=True)
        waiting = [model for model, state in self._models.items() if state.shares]
        return [*actions, *(ev.TellPositions(model) for model in waiting)]

    def _on_Tick(self, event: ev.Tick) -> list[ev.Action]:
        return self._advance_all()

    def _on_DrainAsked(self, event: ev.DrainAsked) -> list[ev.Action]:
        self._draining = True
        return []

    def _on_DrainEnded(self, event: ev.DrainEnded) -> list[ev.Action]:
        self._draining = False
        return self._advance_all()

    # -- events: agents and replicas -------------------------------------------------------------------
    def _on_AgentJoined(self, event: ev.AgentJoined) -> list[ev.Action]:
        self._fleet.agent_joins(event.agent)
        held = {replica.replica: replica for replica in event.replicas}
        actions: list[ev.Action] = []
        for replica in self._fleet.replicas_on(event.agent):
            if replica.id not in held:
                actions += self._drop_replica(replica.id)
        for each in held.values():
            actions += self._adopt(event.agent, each)
        for job_id, attempt in self.running_on(event.agent):
            if (job_id, attempt) not in event.running:
                job = self._jobs[job_id]
                actions += [*self._free(job_id, job), *self._retry(job_id, job)]
            elif self._jobs[job_id].cancelling:
                actions.append(ev.StopAttempt(job_id, attempt, event.agent))
        return actions + self._advance_all()

    def _on_AgentAway(self, event: ev.AgentAway) -> list[ev.Action]:
        self._fleet.agent_leaves(event.agent)
        return []

    def _on_AgentLost(self, event: ev.AgentLost) -> list[ev.Action]:
        if not self._fleet.knows_agent(event.agent):
            return []
        self._fleet.agent_leaves(event.agent)
        actions: list[ev.Action] = []
        for replica in self._fleet.replicas_on(event.agent):
            actions += self._drop_replica(replica.id)
        self._fleet.remove_agent(event.agent)
        return actions + self._advance_all()

    def _on_ReplicaBecameReady(self, event: ev.ReplicaBecameReady) -> list[ev.Action]:
        replica = self._fleet.replica(event.replica)
        if replica is None:
            return []
        if replica.state is ReplicaState.LOADING:
            self._fleet.become(replica, ReplicaState.READY)
        self._models[replica.model].deaths = 0
        return [*self._advance(replica.model), ev.TellPositions(replica.model)]

    def _on_ReplicaFailed(self, event: ev.ReplicaFailed) -> list[ev.Action]:
        replica = self._fleet.replica(event.replica)
        if replica is None:
            return []
        was_loading = replica.state is ReplicaState.LOADING
        actions = self._drop_replica(event.replica)
        model = self._models[replica.model]
        model.deaths += was_loading and event.died
        tried_enough = not event.died or model.deaths >= MAX_ATTEMPTS
        if was_loading and tried_enough and not self._fleet.has_any(replica.model):
            # Loading again would fail again: those who wait are told why, and the next job or deploy retries.
            model.wanted = False
            model.deaths = 0
            for job in model.shares.by_arrival():
                model.shares.drop(job)
                del self._jobs[job]
                actions.append(ev.FailJob(job, errors.MODEL_LOAD_FAILED, event.sentence))
        return actions + self._advance_all()

    def _on_ReplicaStopped(self, event: ev.ReplicaStopped) -> list[ev.Action]:
        if self._fleet.replica(event.replica) is None:
            return []
        return [*self._drop_replica(event.replica), *self._advance_all()]

    def _on_DeployAsked(self, event: ev.DeployAsked) -> list[ev.Action]:
        self._models[event.model].wanted = True
        return self._advance(event.model)

    def _on_SlotsChanged(self, event: ev.SlotsChanged) -> list[ev.Action]:
        self._fleet.set_slots(event.model, event.slots)
        return self._advance(event.model)

    def _on_EvictAsked(self, event: ev.EvictAsked) -> list[ev.Action]:
        self._models[event.model].wanted = False
        actions: list[ev.Action] = []
        for replica in self._fleet.replicas_of(event.model):
            if replica.state is ReplicaState.STOPPING:
                continue
            self._fleet.become(replica, ReplicaState.STOPPING)
            if not replica.jobs:
                actions.append(ev.StopReplica(replica.agent, replica.id))
        return actions

    # -- parts -----------------------------------------------------------------------------------------
    def _current(self, job_id: JobId, attempt: int) -> _Job | None:
        """The job, if ``attempt`` is the one that runs now; what an older attempt says is dropped."""
        job = self._jobs.get(job_id)
        if job is None or job.replica is None or job.attempts != attempt:
            return None
        return job

    def _in_order(self, replica: Replica) -> list[JobId]:
        return sorted(replica.jobs, key=lambda job: self._jobs[job].arrival)

    def _note(self, claim: ev.Claim, *, priority: bool) -> list[ev.Action]:
        """Let the newest word on a user and a group hold for what waits already."""
        if not self._claims.note(claim) and not priority:
            return []
        for model in self._models.values():
            model.shares.reclaim(claim, priority=priority)
        return self._advance_all()

    def _free(self, job_id: JobId, job: _Job) -> list[ev.Action]:
        """The job has left its replica; one that was only waiting for its last job to be evicted, stops."""
        replica = self._fleet.replica(job.replica) if job.replica is not None else None
        job.replica = None
        if replica is None:
            return []
        self._fleet.release(replica, job_id)
        if replica.state is ReplicaState.STOPPING and not replica.jobs:
            return [ev.StopReplica(replica.agent, replica.id)]
        return []

    def _retry(self, job_id: JobId, job: _Job, reason: str = "The node was lost.") -> list[ev.Action]:
        """A lost attempt: the job takes its old place in the queue, or ends when its tries are used up."""
        shares = self._models[job.model].shares
        if not job.cancelling and job.attempts < MAX_ATTEMPTS:
            shares.restore(job_id)
            return [ev.RequeueJob(job_id, job.attempts)]
        shares.forgive(job_id)
        del self._jobs[job_id]
        if job.cancelling:
            return [ev.CancelJob(job_id, job.attempts)]
        sentence = f"The job was tried {job.attempts} times and never came to its end. {reason}".strip()
        return [ev.FailJob(job_id, errors.REPLICA_LOST, sentence, job.attempts)]

    def _next_arrival(self) -> int:
        self._arrivals += 1
        return self._arrivals

    def _drop_replica(self, replica_id: ReplicaId) -> list[ev.Action]:
        replica = self._fleet.remove(replica_id)
        actions: list[ev.Action] = []
        for job_id in self._in_order(replica):
            job = self._jobs[job_id]
            job.replica = None
            actions += self._retry(job_id, job)
        return actions

    def _adopt(self, agent: AgentId, held: ev.HeldReplica) -> list[ev.Action]:
        if held.model not in self._models:
            return [ev.StopReplica(agent, held.replica)]
        state = ReplicaState.READY if held.ready else ReplicaState.LOADING
        known = self._fleet.replica(held.replica)
        if known is None:
            self._fleet.add(held.replica, agent, held.model, state)
        elif known.state is not ReplicaState.STOPPING:
            self._fleet.become(known, state)
        elif not known.jobs:  # it was told to stop, and the word was lost with the link
            return [ev.StopReplica(agent, held.replica)]
        return []

    def _advance(self, model: ModelId) -> list[ev.Action]:
        """Whatever can happen for this model now: dispatch, and start a replica if one is needed."""
        aged = self._models[model].shares.age(self._now)
        begun = [] if self._draining else self._dispatch(model)
        moved = [ev.TellPositions(model)] if (aged or begun) and self._models[model].shares else []
        return [*begun, *moved, *([] if self._draining else self._place(model))]

    def _advance_all(self) -> list[ev.Action]:
        return [action for model in self._models for action in self._advance(model)]

    def _advance_after(self, model: ModelId, ended: Ticket) -> list[ev.Action]:
        """A job of this model ended: another may begin there, or elsewhere if a limit was in the way."""
        return self._advance_all() if self._claims.limited(ended.user, ended.group) else self._advance(model)

    def _dispatch(self, model_id: ModelId) -> list[ev.Action]:
        shares = self._models[model_id].shares
        actions: list[ev.Action] = []
        while (replica := self._fleet.freest(model_id)) and (job_id := shares.take()):
            job = self._jobs[job_id]
            job.attempts += 1
            job.replica = replica.id
            job.began = self._now
            self._fleet.occupy(replica, job_id)
            actions.append(ev.BeginAttempt(job_id, job.attempts, replica.agent, replica.id))
        return actions

    def _place(self, model_id: ModelId) -> list[ev.Action]:
        model = self._models[model_id]
        if self._fleet.has_any(model_id) or not (model.wanted or model.shares):
            return []
        agent = self._fleet.emptiest_agent()
        if agent is None:
            return []
        self._replica_count += 1
        replica = ReplicaId(f"{self._prefix}-{self._replica_count}")
        self._fleet.add(replica, agent, model_id, ReplicaState.LOADING)
        return [ev.StartReplica(agent, replica, model_id)]

    # -- for tests -------------------------------------------------------------------------------------
    def validate(self) -> None:
        """Assert every invariant of the state; tests call it after each event."""
        running = self._fleet.running()
        queued: set[JobId] = set()
        for model in self._models.values():
            model.shares.validate()
            queued |= set(model.shares.by_arrival())
        assert queued.isdisjoint(running), "a job is queued and running"
        assert queued | set(running) == set(self._jobs), "a job is neither queued nor running"
        assert sum(len(model.shares) for model in self._models.values()) == len(queued), (
            "a job is queued twice"
        )
        for job_id, replica in running.items():
            job = self._jobs[job_id]
            assert job.replica == replica.id, "job and replica disagree"
            assert job.model == replica.model, "a job runs on another model"
            assert 1 <= job.attempts <= MAX_ATTEMPTS, "too many attempts"
            self._models[job.model].shares.ticket(job_id)
        by_user = sorted(self._models[self._jobs[job].model].shares.ticket(job).user for job in running)
        self._fleet.validate()
        counted, _ = self._claims.running()
        assert counted == {user: by_user.count(user) for user in by_user}, "running jobs are miscounted"
