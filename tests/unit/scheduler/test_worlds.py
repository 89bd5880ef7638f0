"""Random worlds played against the scheduler; see ``world.py`` for the laws that are checked in them."""

import os
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.sizes import SIZES
from tests.unit.scheduler.world import World, play

ROOT = Path(__file__).resolve().parents[3]

models = st.integers(0, 1)
users = st.integers(0, 2)
seats = st.integers(0, 2)
which = st.integers(0, 5)


class Worlds(RuleBasedStateMachine):
    """Every rule is something that can happen; the world checks the laws, ``teardown`` that it comes to rest."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(model=models, user=users, priority=st.integers(0, 2))
    def job_arrives(self, model: int, user: int, priority: int) -> None:
        self.world.job_arrives(model, user, priority)

    @rule(seconds=st.integers(0, 40))
    def time_passes(self, seconds: int) -> None:
        self.world.time_passes(seconds)

    @rule(user=users, weight=st.integers(1, 5), most=st.integers(0, 3), of_group=st.integers(0, 1))
    def claim_changes(self, user: int, weight: int, most: int, of_group: int) -> None:
        self.world.claim_changes(user, weight, most, of_group)

    @rule()
    def drain_is_asked(self) -> None:
        self.world.drain_is_asked()

    @rule()
    def drain_ends(self) -> None:
        self.world.drain_ends()

    @rule(job=which)
    def job_arrives_twice(self, job: int) -> None:
        self.world.job_arrives_twice(job)

    @rule(job=which)
    def job_is_cancelled(self, job: int) -> None:
        self.world.job_is_cancelled(job)

    @rule(job=which)
    def job_leaves_the_store(self, job: int) -> None:
        self.world.job_leaves_the_store(job)

    @rule(model=models)
    def model_is_deployed(self, model: int) -> None:
        self.world.model_is_deployed(model)

    @rule(model=models)
    def model_is_evicted(self, model: int) -> None:
        self.world.model_is_evicted(model)

    @rule(model=models, slots=st.integers(1, 3))
    def slots_change(self, model: int, slots: int) -> None:
        self.world.slots_change(model, slots)

    @rule(seat=seats)
    def agent_comes(self, seat: int) -> None:
        self.world.agent_comes(seat)

    @rule(seat=seats)
    def agent_process_is_replaced(self, seat: int) -> None:
        self.world.agent_process_is_replaced(seat)

    @rule(seat=seats)
    def link_breaks(self, seat: int) -> None:
        self.world.link_breaks(seat)

    @rule(agent=which)
    def lease_ends(self, agent: int) -> None:
        self.world.lease_ends(agent)

    @rule(agent=which, messages=st.integers(1, 4))
    def agent_hears(self, agent: int, messages: int) -> None:
        for _ in range(messages):
            self.world.agent_hears(agent)

    @rule(agent=which, messages=st.integers(1, 4))
    def gateway_hears(self, agent: int, messages: int) -> None:
        for _ in range(messages):
            self.world.gateway_hears(agent)

    @rule(replica=which)
    def replica_loads(self, replica: int) -> None:
        self.world.replica_loads(replica)

    @rule(replica=which)
    def replica_dies(self, replica: int) -> None:
        self.world.replica_dies(replica)

    @rule(attempt=which, outcome=st.sampled_from(["completed", "failed", "lost"]))
    def attempt_ends(self, attempt: int, outcome: str) -> None:
        self.world.attempt_ends(attempt, outcome)

    @rule(replica=which)
    def failure_is_told_twice(self, replica: int) -> None:
        self.world.failure_is_told_twice(replica)

    @rule()
    def gateway_restarts(self) -> None:
        self.world.gateway_restarts()

    def teardown(self) -> None:
        self.world.becomes_calm()
        self.world.replays()


TestWorlds = Worlds.TestCase
TestWorlds.settings = settings(max_examples=SIZES.worlds, stateful_step_count=SIZES.world_steps)


def test_long_random_worlds_keep_the_laws_and_come_to_rest() -> None:
    for seed in range(SIZES.random_worlds):
        try:
            play(seed, steps=150).replays()
        except AssertionError as error:
            pytest.fail(f"world {seed}: {error}")


def test_random_worlds_do_what_they_are_for() -> None:
    """The laws are worth something only if the worlds meet retries, cancellations, refusals and restarts."""
    worlds = [play(seed, steps=150) for seed in range(15)]
    endings = {ending for world in worlds for ending in world.ended.values()}
    assert endings == {"completed", "failed", "cancelled", "refused"}
    assert max(record.attempts for world in worlds for record in world.store.values()) == 3
    assert max(world.generation for world in worlds) >= 2


def test_decisions_do_not_depend_on_the_process_that_makes_them() -> None:
    """A bug report is a list of events: it must replay where strings hash differently."""
    digests = set()
    for hash_seed in ("0", "1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.unit.scheduler.world", str(SIZES.replay_worlds), "120"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout)
    assert len(digests) == 1
