"""The scheduler: a pure function of events and its own state.

``handle(event)`` returns the actions that the gateway's runtime carries out, in order. Nothing here waits,
reads a clock or does I/O, so a bug report is a list of events that replays.

Today every model has one queue in order of arrival and at most one replica, which runs as many jobs at once as its
model has slots; fair shares and several replicas replace :meth:`Scheduler._dispatch` and :meth:`Scheduler._place`,
nothing else.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from edif.core import errors
from edif.core.ids import AgentId, JobId, ModelId, ReplicaId
from edif.core.job import MAX_ATTEMPTS
from edif.scheduler import events as ev


class _ReplicaState(Enum):
    LOADING = auto()
    READY = auto()
    STOPPING = auto()


@dataclass(slots=True)
class _Agent:
    present: bool = True
    replicas: set[ReplicaId] = field(default_factory=set)


@dataclass(slots=True)
class _Replica:
    id: ReplicaId
    agent: AgentId
    model: ModelId
    state: _ReplicaState
    jobs: set[JobId] = field(default_factory=set)


@dataclass(slots=True)
class _Model:
    queue: deque[JobId] = field(default_factory=deque)
    replicas: set[ReplicaId] = field(default_factory=set)
    wanted: bool = False  # kept up even without jobs
    slots: int = 1  # jobs at once on each replica


@dataclass(slots=True)
class _Job:
    model: ModelId
    attempts: int
    arrival: int
    replica: ReplicaId | None = None
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
    """

    def __init__(self, models: Iterable[ModelId], prefix: str) -> None:
        self._models = {model: _Model() for model in models}
        self._agents: dict[AgentId, _Agent] = {}
        self._replicas: dict[ReplicaId, _Replica] = {}
        self._jobs: dict[JobId, _Job] = {}
        self._prefix = prefix
        self._replica_count = 0
        self._arrivals = 0

    # -- questions -------------------------------------------------------------------------------------
    def view(self) -> list[ModelView]:
        views = []
        for model, state in self._models.items():
            states = [self._replicas[replica].state for replica in state.replicas]
            ready = states.count(_ReplicaState.READY)
            views.append(ModelView(model, ready, states.count(_ReplicaState.LOADING), len(state.queue)))
        return views

    def queue(self, model: ModelId) -> tuple[JobId, ...]:
        """The jobs that wait for this model, next one first."""
        return tuple(self._models[model].queue)

    def loading(self, model: ModelId) -> bool:
        """Whether no replica of the model is ready yet."""
        return not any(
            self._replicas[replica].state is _ReplicaState.READY for replica in self._models[model].replicas
        )

    def model_of(self, replica: ReplicaId) -> ModelId | None:
        known = self._replicas.get(replica)
        return None if known is None else known.model

    def knows(self, job: JobId) -> bool:
        return job in self._jobs

    def running_on(self, agent: AgentId) -> list[tuple[JobId, int]]:
        """The attempts that are believed to run on this agent."""
        held = self._agents.get(agent)
        if held is None:
            return []
        jobs = [job for replica in sorted(held.replicas) for job in self._in_order(self._replicas[replica])]
        return [(job, self._jobs[job].attempts) for job in jobs]

    # -- events ----------------------------------------------------------------------------------------
    def handle(self, event: ev.Event) -> list[ev.Action]:
        """Take note of ``event`` and say what is to be done."""
        handler = getattr(self, f"_on_{type(event).__name__}")
        actions: list[ev.Action] = handler(event)
        return actions

    def _on_JobQueued(self, event: ev.JobQueued) -> list[ev.Action]:
        if event.job in self._jobs:
            return []
        self._jobs[event.job] = _Job(event.model, event.attempts, self._next_arrival())
        model = self._models[event.model]
        model.queue.append(event.job)
        actions = self._advance(event.model)
        if event.job in model.queue:
            position = len(model.queue)
            actions.append(ev.TellWaiting(event.job, position, self.loading(event.model)))
        return actions

    def _on_AttemptRemembered(self, event: ev.AttemptRemembered) -> list[ev.Action]:
        agent = self._agents.setdefault(event.agent, _Agent(present=False))
        if event.replica not in self._replicas:
            self._replicas[event.replica] = _Replica(
                event.replica, event.agent, event.model, _ReplicaState.READY
            )
            agent.replicas.add(event.replica)
            self._models[event.model].replicas.add(event.replica)
        self._replicas[event.replica].jobs.add(event.job)
        self._jobs[event.job] = _Job(event.model, event.attempt, self._next_arrival(), event.replica)
        return []

    def _on_AttemptOver(self, event: ev.AttemptOver) -> list[ev.Action]:
        job = self._current(event.job, event.attempt)
        if job is None:
            return []
        del self._jobs[event.job]
        return [*self._free(event.job, job), *self._advance(job.model)]

    def _on_AttemptLost(self, event: ev.AttemptLost) -> list[ev.Action]:
        job = self._current(event.job, event.attempt)
        if job is None:
            return []
        freed = self._free(event.job, job)
        return [*freed, *self._retry(event.job, job, event.sentence), *self._advance(job.model)]

    def _on_AttemptRefused(self, event: ev.AttemptRefused) -> list[ev.Action]:
        job = self._jobs.get(event.job)
        if job is None or job.replica is None:
            return []
        del self._jobs[event.job]
        return [*self._free(event.job, job), *self._advance(job.model)]

    def _on_CancelAsked(self, event: ev.CancelAsked) -> list[ev.Action]:
        job = self._jobs.get(event.job)
        if job is None:
            return []
        if job.replica is None:
            self._models[job.model].queue.remove(event.job)
            del self._jobs[event.job]
            return [ev.CancelJob(event.job), ev.TellPositions(job.model)]
        job.cancelling = True
        return [ev.StopAttempt(event.job, job.attempts, self._replicas[job.replica].agent)]

    def _on_AgentJoined(self, event: ev.AgentJoined) -> list[ev.Action]:
        agent = self._agents.setdefault(event.agent, _Agent())
        agent.present = True
        held = {replica.replica: replica for replica in event.replicas}
        actions: list[ev.Action] = []
        for gone in sorted(agent.replicas - set(held)):
            actions += self._drop_replica(gone)
        for replica in held.values():
            actions += self._adopt(event.agent, replica)
        for job_id, attempt in self.running_on(event.agent):
            if (job_id, attempt) not in event.running:
                job = self._jobs[job_id]
                actions += [*self._free(job_id, job), *self._retry(job_id, job)]
            elif self._jobs[job_id].cancelling:
                actions.append(ev.StopAttempt(job_id, attempt, event.agent))
        for model in self._models:
            actions += self._advance(model)
        return actions

    def _on_AgentAway(self, event: ev.AgentAway) -> list[ev.Action]:
        agent = self._agents.get(event.agent)
        if agent is not None:
            agent.present = False
        return []

    def _on_AgentLost(self, event: ev.AgentLost) -> list[ev.Action]:
        agent = self._agents.pop(event.agent, None)
        if agent is None:
            return []
        actions: list[ev.Action] = []
        for replica in sorted(agent.replicas):
            actions += self._drop_replica(replica)
        for model in self._models:
            actions += self._advance(model)
        return actions

    def _on_ReplicaBecameReady(self, event: ev.ReplicaBecameReady) -> list[ev.Action]:
        replica = self._replicas.get(event.replica)
        if replica is None:
            return []
        if replica.state is _ReplicaState.LOADING:
            replica.state = _ReplicaState.READY
        return [*self._advance(replica.model), ev.TellPositions(replica.model)]

    def _on_ReplicaFailed(self, event: ev.ReplicaFailed) -> list[ev.Action]:
        replica = self._replicas.get(event.replica)
        if replica is None:
            return []
        was_loading = replica.state is _ReplicaState.LOADING
        actions = self._drop_replica(event.replica)
        model = self._models[replica.model]
        if was_loading and not model.replicas:
            # Loading again would fail again: those who wait are told why, and the next job or deploy retries.
            model.wanted = False
            while model.queue:
                job = model.queue.popleft()
                del self._jobs[job]
                actions.append(ev.FailJob(job, errors.MODEL_LOAD_FAILED, event.sentence))
        return actions + self._advance(replica.model)

    def _on_ReplicaStopped(self, event: ev.ReplicaStopped) -> list[ev.Action]:
        replica = self._replicas.get(event.replica)
        if replica is None:
            return []
        return [*self._drop_replica(event.replica), *self._advance(replica.model)]

    def _on_DeployAsked(self, event: ev.DeployAsked) -> list[ev.Action]:
        self._models[event.model].wanted = True
        return self._advance(event.model)

    def _on_SlotsChanged(self, event: ev.SlotsChanged) -> list[ev.Action]:
        self._models[event.model].slots = event.slots
        return self._advance(event.model)

    def _on_EvictAsked(self, event: ev.EvictAsked) -> list[ev.Action]:
        model = self._models[event.model]
        model.wanted = False
        actions: list[ev.Action] = []
        for replica_id in sorted(model.replicas):
            replica = self._replicas[replica_id]
            if replica.state is _ReplicaState.STOPPING:
                continue
            replica.state = _ReplicaState.STOPPING
            if not replica.jobs:
                actions.append(ev.StopReplica(replica.agent, replica_id))
        return actions

    # -- parts -----------------------------------------------------------------------------------------
    def _current(self, job_id: JobId, attempt: int) -> _Job | None:
        """The job, if ``attempt`` is the one that runs now; what an older attempt says is dropped."""
        job = self._jobs.get(job_id)
        if job is None or job.replica is None or job.attempts != attempt:
            return None
        return job

    def _in_order(self, replica: _Replica) -> list[JobId]:
        return sorted(replica.jobs, key=lambda job: self._jobs[job].arrival)

    def _free(self, job_id: JobId, job: _Job) -> list[ev.Action]:
        """The job has left its replica; one that was only waiting for its last job to be evicted, stops."""
        replica = self._replicas.get(job.replica) if job.replica is not None else None
        job.replica = None
        if replica is None:
            return []
        replica.jobs.discard(job_id)
        if replica.state is _ReplicaState.STOPPING and not replica.jobs:
            return [ev.StopReplica(replica.agent, replica.id)]
        return []

    def _retry(self, job_id: JobId, job: _Job, reason: str = "The node was lost.") -> list[ev.Action]:
        """A lost attempt: the job takes its old place in the queue, or ends when its tries are used up."""
        if job.cancelling:
            del self._jobs[job_id]
            return [ev.CancelJob(job_id, job.attempts)]
        if job.attempts >= MAX_ATTEMPTS:
            del self._jobs[job_id]
            sentence = f"The job was tried {job.attempts} times and never came to its end. {reason}".strip()
            return [ev.FailJob(job_id, errors.REPLICA_LOST, sentence, job.attempts)]
        queue = self._models[job.model].queue
        ahead = sum(self._jobs[waiting].arrival < job.arrival for waiting in queue)
        queue.insert(ahead, job_id)
        return [ev.RequeueJob(job_id, job.attempts)]

    def _next_arrival(self) -> int:
        self._arrivals += 1
        return self._arrivals

    def _drop_replica(self, replica_id: ReplicaId) -> list[ev.Action]:
        replica = self._replicas.pop(replica_id)
        self._models[replica.model].replicas.discard(replica_id)
        if replica.agent in self._agents:
            self._agents[replica.agent].replicas.discard(replica_id)
        actions: list[ev.Action] = []
        for job_id in self._in_order(replica):
            job = self._jobs[job_id]
            job.replica = None
            actions += self._retry(job_id, job)
        return actions

    def _adopt(self, agent: AgentId, held: ev.HeldReplica) -> list[ev.Action]:
        if held.model not in self._models:
            return [ev.StopReplica(agent, held.replica)]
        state = _ReplicaState.READY if held.ready else _ReplicaState.LOADING
        known = self._replicas.get(held.replica)
        if known is None:
            self._replicas[held.replica] = _Replica(held.replica, agent, held.model, state)
            self._agents[agent].replicas.add(held.replica)
            self._models[held.model].replicas.add(held.replica)
        elif known.state is not _ReplicaState.STOPPING:
            known.state = state
        elif not known.jobs:  # it was told to stop, and the word was lost with the link
            return [ev.StopReplica(agent, held.replica)]
        return []

    def _advance(self, model_id: ModelId) -> list[ev.Action]:
        """Whatever can happen for this model now: dispatch, and start a replica if one is needed."""
        return [*self._dispatch(model_id), *self._place(model_id)]

    def _dispatch(self, model_id: ModelId) -> list[ev.Action]:
        model = self._models[model_id]
        actions: list[ev.Action] = []
        while model.queue and (replica := self._freest(model)) is not None:
            job_id = model.queue.popleft()
            job = self._jobs[job_id]
            job.attempts += 1
            job.replica = replica.id
            replica.jobs.add(job_id)
            actions.append(ev.BeginAttempt(job_id, job.attempts, replica.agent, replica.id))
        if actions and model.queue:
            actions.append(ev.TellPositions(model_id))
        return actions

    def _freest(self, model: _Model) -> _Replica | None:
        """The replica with the fewest jobs among those that can take one more."""
        able = [
            replica
            for replica in map(self._replicas.__getitem__, model.replicas)
            if replica.state is _ReplicaState.READY
            and len(replica.jobs) < model.slots
            and self._agents[replica.agent].present
        ]
        return min(able, key=lambda replica: (len(replica.jobs), replica.id), default=None)

    def _place(self, model_id: ModelId) -> list[ev.Action]:
        model = self._models[model_id]
        if model.replicas or not (model.wanted or model.queue):
            return []
        present = [
            (len(agent.replicas), agent_id) for agent_id, agent in self._agents.items() if agent.present
        ]
        if not present:
            return []
        _, agent_id = min(present)
        self._replica_count += 1
        replica = ReplicaId(f"{self._prefix}-{self._replica_count}")
        self._replicas[replica] = _Replica(replica, agent_id, model_id, _ReplicaState.LOADING)
        self._agents[agent_id].replicas.add(replica)
        model.replicas.add(replica)
        return [ev.StartReplica(agent_id, replica, model_id)]

    # -- for tests -------------------------------------------------------------------------------------
    def validate(self) -> None:
        """Assert every invariant of the state; tests call it after each event."""
        queued = [job for model in self._models.values() for job in model.queue]
        assert len(queued) == len(set(queued)), "a job is queued twice"
        running = {job: replica for replica in self._replicas.values() for job in replica.jobs}
        assert len(running) == sum(len(each.jobs) for each in self._replicas.values()), "a job runs twice"
        assert set(queued).isdisjoint(running), "a job is queued and running"
        assert set(queued) | set(running) == set(self._jobs), "a job is neither queued nor running"
        for job_id, replica in running.items():
            job = self._jobs[job_id]
            assert job.replica == replica.id, "job and replica disagree"
            assert job.model == replica.model, "a job runs on another model"
            assert 1 <= job.attempts <= MAX_ATTEMPTS, "too many attempts"
        for agent_id, agent in self._agents.items():
            for replica_id in agent.replicas:
                assert self._replicas[replica_id].agent == agent_id, "agent and replica disagree"
        for replica_id, replica in self._replicas.items():
            assert replica_id in self._agents[replica.agent].replicas, "a replica has no agent"
            assert replica_id in self._models[replica.model].replicas, "a replica has no model"
