"""How much the tests play: little by default, much with ``EDIF_TEST_SIZE=soak`` (``make soak``).

Every count that trades time for certainty stands here, so that one variable moves all of them.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """Counts for one run.

    Attributes:
        examples: hypothesis examples of one property.
        damaged: damaged messages for each target of ``fuzz/``.
        worlds: hypothesis examples of the scheduler's state machine.
        world_steps: steps of one such world.
        random_worlds: further worlds of the scheduler, played by a plain random driver.
        replay_worlds: worlds whose decisions are compared between processes.
        simulated_jobs: jobs of the simulated site that shares some replicas.
        kills: processes that are killed right after a write returned.
        gateway_kills: gateways that are killed right after they acknowledged a job.
        sealed_jobs: jobs in cells, one in twenty of them an attacker.
        drains: drains of a fabric that has many sealed jobs.
        drained_jobs: jobs that it has each time.
        racers: tasks that try the same thing at the same time.
        races: rounds of each race.
        chaos_models: models that share their processes between jobs, beside a sealed one, on the fabric of the next two.
        chaos_clients: clients of a fabric whose processes are killed again and again.
        chaos_jobs: jobs that they send, on each record store.
        api_examples: requests made from the description of each route.
        large_result_mib: saved values of which the memory that they take beside them is measured.
        cut_download_bytes: a result whose download is cut ten times.
        merged_programs: random programs that are run merged, and compared with the same run alone.
        padded_programs: likewise, of different length, so that they share passes with padding.
        merged_attacks: attacks of the escape suite that are run merged, beside those on merging itself; all in the long runs.
        crowds: crowds of a hundred jobs, some of which go wrong.
        derandomize: whether every run tries the same examples.
    """

    examples: int
    damaged: int
    worlds: int
    world_steps: int
    random_worlds: int
    replay_worlds: int
    simulated_jobs: int
    kills: int
    gateway_kills: int
    sealed_jobs: int
    drains: int
    drained_jobs: int
    racers: int
    races: int
    chaos_models: int
    chaos_clients: int
    chaos_jobs: int
    api_examples: int
    large_result_mib: int
    cut_download_bytes: int
    merged_programs: int
    padded_programs: int
    merged_attacks: int
    crowds: int
    derandomize: bool


REDUCED = Sizes(
    examples=40,
    damaged=300,
    worlds=60,
    world_steps=50,
    random_worlds=150,
    replay_worlds=15,
    simulated_jobs=6_000,
    kills=3,
    gateway_kills=3,
    sealed_jobs=60,
    drains=1,
    drained_jobs=24,
    racers=12,
    races=3,
    chaos_models=1,  # each takes five seconds of a processor at every death of an agent
    chaos_clients=4,
    chaos_jobs=24,
    api_examples=20,
    large_result_mib=128,
    cut_download_bytes=64 * 2**20,
    merged_programs=80,
    padded_programs=32,
    merged_attacks=60,
    crowds=1,
    derandomize=True,
)
FULL = Sizes(
    examples=1_500,
    damaged=20_000,
    worlds=3_000,
    world_steps=120,
    random_worlds=20_000,
    replay_worlds=300,
    simulated_jobs=100_000,
    kills=60,
    gateway_kills=40,
    sealed_jobs=2_000,
    drains=10,
    drained_jobs=80,
    racers=40,
    races=50,
    chaos_models=2,
    chaos_clients=40,
    chaos_jobs=2_000,
    api_examples=750,  # 1,000 took 31 minutes for all routes, on two cores that had four times as much to do
    large_result_mib=4_096,
    cut_download_bytes=2**30,
    merged_programs=2_000,
    padded_programs=1_000,
    merged_attacks=0,
    crowds=10,
    derandomize=False,
)

SOAK = os.environ.get("EDIF_TEST_SIZE") == "soak"
SIZES = FULL if SOAK else REDUCED
