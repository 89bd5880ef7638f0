"""Agents and their replicas as the gateway believes them to be, indexed by what decisions ask."""

from dataclasses import dataclass, field
from enum import Enum, auto

from edif.core.ids import AgentId, JobId, ModelId, ReplicaId
from edif.scheduler.ranking import Ranking


class ReplicaState(Enum):
    LOADING = auto()
    READY = auto()
    STOPPING = auto()


@dataclass(slots=True)
class Agent:
    present: bool = True
    replicas: set[ReplicaId] = field(default_factory=set)


@dataclass(slots=True)
class Replica:
    id: ReplicaId
    agent: AgentId
    model: ModelId
    state: ReplicaState
    jobs: set[JobId] = field(default_factory=set)


@dataclass(slots=True)
class _OfModel:
    slots: int = 1  # jobs at once on each replica
    replicas: set[ReplicaId] = field(default_factory=set)
    states: dict[ReplicaState, int] = field(default_factory=lambda: dict.fromkeys(ReplicaState, 0))
    able: Ranking[int, ReplicaId] = field(default_factory=Ranking)


class Fleet:
    """Every change keeps the indexes, so that no question looks at all replicas or agents."""

    def __init__(self, models: list[ModelId]) -> None:
        self._models = {model: _OfModel() for model in models}
        self._agents: dict[AgentId, Agent] = {}
        self._replicas: dict[ReplicaId, Replica] = {}
        self._emptiest: Ranking[int, AgentId] = Ranking()

    # -- questions -------------------------------------------------------------------------------------
    def replica(self, replica: ReplicaId) -> Replica | None:
        return self._replicas.get(replica)

    def agent_of(self, replica: ReplicaId) -> AgentId:
        return self._replicas[replica].agent

    def replicas_of(self, model: ModelId) -> list[Replica]:
        return [self._replicas[replica] for replica in sorted(self._models[model].replicas)]

    def replicas_on(self, agent: AgentId) -> list[Replica]:
        """An unknown agent has none."""
        held = self._agents.get(agent)
        return [] if held is None else [self._replicas[replica] for replica in sorted(held.replicas)]

    def count(self, model: ModelId, state: ReplicaState) -> int:
        return self._models[model].states[state]

    def has_any(self, model: ModelId) -> bool:
        return bool(self._models[model].replicas)

    def freest(self, model: ModelId) -> Replica | None:
        """The replica with the fewest jobs among those that can take one more."""
        replica = self._models[model].able.first()
        return None if replica is None else self._replicas[replica]

    def emptiest_agent(self) -> AgentId | None:
        """The agent with the fewest replicas among those that are there."""
        return self._emptiest.first()

    def working(self, model: ModelId) -> tuple[int, list[JobId]]:
        """How many slots are free, and the jobs whose slot is free for the next one when they end."""
        of_model = self._models[model]
        free, running = 0, []
        for replica in self.replicas_of(model):
            if self._usable(replica):
                free += max(of_model.slots - len(replica.jobs), 0)
                running += sorted(replica.jobs)[: of_model.slots]
        return free, running

    # -- agents ----------------------------------------------------------------------------------------
    def agent_joins(self, agent: AgentId) -> None:
        self.agent_known(agent)
        self._set_present(agent, True)

    def agent_known(self, agent: AgentId) -> Agent:
        """An agent that is spoken of; absent until it joins."""
        return self._agents.setdefault(agent, Agent(present=False))

    def agent_leaves(self, agent: AgentId) -> None:
        if agent in self._agents:
            self._set_present(agent, False)

    def remove_agent(self, agent: AgentId) -> None:
        """An agent whose replicas are gone already."""
        del self._agents[agent]
        self._emptiest.discard(agent)

    def knows_agent(self, agent: AgentId) -> bool:
        return agent in self._agents

    def _set_present(self, agent: AgentId, present: bool) -> None:
        self._agents[agent].present = present
        self._rank_agent(agent)
        for replica in self.replicas_on(agent):
            self._index(replica)

    # -- replicas --------------------------------------------------------------------------------------
    def add(self, replica: ReplicaId, agent: AgentId, model: ModelId, state: ReplicaState) -> Replica:
        added = self._replicas[replica] = Replica(replica, agent, model, state)
        self._agents[agent].replicas.add(replica)
        of_model = self._models[model]
        of_model.replicas.add(replica)
        of_model.states[state] += 1
        self._index(added)
        self._rank_agent(agent)
        return added

    def remove(self, replica_id: ReplicaId) -> Replica:
        replica = self._replicas.pop(replica_id)
        of_model = self._models[replica.model]
        of_model.replicas.discard(replica_id)
        of_model.states[replica.state] -= 1
        of_model.able.discard(replica_id)
        self._agents[replica.agent].replicas.discard(replica_id)
        self._rank_agent(replica.agent)
        return replica

    def become(self, replica: Replica, state: ReplicaState) -> None:
        states = self._models[replica.model].states
        states[replica.state] -= 1
        states[state] += 1
        replica.state = state
        self._index(replica)

    def occupy(self, replica: Replica, job: JobId) -> None:
        replica.jobs.add(job)
        self._index(replica)

    def release(self, replica: Replica, job: JobId) -> None:
        replica.jobs.discard(job)
        self._index(replica)

    def set_slots(self, model: ModelId, slots: int) -> None:
        self._models[model].slots = slots
        for replica in self.replicas_of(model):
            self._index(replica)

    # -- indexes ---------------------------------------------------------------------------------------
    def _usable(self, replica: Replica) -> bool:
        return replica.state is ReplicaState.READY and self._agents[replica.agent].present

    def _index(self, replica: Replica) -> None:
        of_model = self._models[replica.model]
        if self._usable(replica) and len(replica.jobs) < of_model.slots:
            of_model.able.put(replica.id, len(replica.jobs))
        else:
            of_model.able.discard(replica.id)

    def _rank_agent(self, agent_id: AgentId) -> None:
        agent = self._agents[agent_id]
        if agent.present:
            self._emptiest.put(agent_id, len(agent.replicas))
        else:
            self._emptiest.discard(agent_id)

    # -- for tests -------------------------------------------------------------------------------------
    def running(self) -> dict[JobId, Replica]:
        return {job: replica for replica in self._replicas.values() for job in replica.jobs}

    def validate(self) -> None:
        """Assert every invariant; tests call it after each event."""
        assert len(self.running()) == sum(len(each.jobs) for each in self._replicas.values()), (
            "a job runs twice"
        )
        for agent_id, agent in self._agents.items():
            for replica_id in agent.replicas:
                assert self._replicas[replica_id].agent == agent_id, "agent and replica disagree"
            there = {agent_id} if agent.present else set()
            assert there == {agent_id} & set(self._emptiest.in_order()), "an agent is indexed wrongly"
        for replica_id, replica in self._replicas.items():
            assert replica_id in self._agents[replica.agent].replicas, "a replica has no agent"
            assert replica_id in self._models[replica.model].replicas, "a replica has no model"
        for of_model in self._models.values():
            replicas = [self._replicas[replica] for replica in of_model.replicas]
            able = {r.id for r in replicas if self._usable(r) and len(r.jobs) < of_model.slots}
            assert able == set(of_model.able.in_order()), "a replica is indexed wrongly"
            for state, count in of_model.states.items():
                assert count == [each.state for each in replicas].count(state), "replicas are miscounted"
