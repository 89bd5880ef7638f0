"""What it brings to run several users' traces in one forward pass, on one replica and without a fabric.

Against one job after the other on a replica that merges nothing, as the peer runs them, and against what there is to be gained:
a batch of as many rows in plain PyTorch, whose passes of one row count as its own sequential way. All of that in turn, so that a
ratio is one of the same minute.
"""

import asyncio
import os
import statistics
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
from tests.support.programs.payloads import Payload
from tests.support.programs.serving import Served, serving

from bench import merging_growth
from bench.closed_loop import Run, Window, keep_busy
from bench.small_traces import read_and_edit
from bench.subjects import DEMO, PurePasses, make_gpt2
from bench.tables import spread, table
from edif.wire.link import Merging, ModelSpec

THREADS = len(os.sched_getaffinity(0))
"""As replicas have by default."""
MERGING = Merging(rows=16, tokens=4096, tolerance=64.0, alone_at_once=4)
"""As settings have it by default."""
_PROMPTS = 16
_REST_S = 0.02
"""After each window, for each client: processes are made ahead for jobs that will not come now."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured of one model.

    Attributes:
        clients: at each length of the prompts, in tokens.
        rounds: how often all is measured in turn.
        jobs: of a window, or as many as there are clients if those are more.
    """

    title: str
    model: str
    folder: Path
    layers: int
    clients: dict[int, tuple[int, ...]]
    rounds: int
    jobs: int


@dataclass(frozen=True, slots=True)
class Round:
    """One way of sending and what it is compared with, measured one after the other."""

    limit_gain: float
    sequential: Window
    merged: Window

    @property
    def gain(self) -> float:
        return self.merged.jobs_per_second / self.sequential.jobs_per_second

    @property
    def of_limit(self) -> float:
        return self.gain / self.limit_gain


def measure(work: Path, *, quick: bool = False) -> str:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # tables go to the other
    larger = make_gpt2(work / "gpt2-small")
    plans = [
        Plan(
            *("4-layer demo model", "edif/demo", DEMO, 4),
            clients=dict.fromkeys((8, 16, 32, 64), (1, 4, 16, 64)),
            rounds=3,
            jobs=32,
        ),
        # 64 clients of the slow one only once: more clients than rows wait, and bring nothing else.
        Plan(
            *("GPT-2-small size, 12 layers, 768 wide", "bench/gpt2-small", larger, 12),
            clients={8: (1, 4, 16, 64), 16: (1, 4, 16), 32: (1, 4, 16), 64: (1, 4, 16)},
            rounds=2,
            jobs=16,
        ),
    ]
    if quick:
        plans = [replace(each, clients={8: (1, 16)}, rounds=1, jobs=16) for each in plans]
    return "\n".join(
        [*(asyncio.run(_compare(each, work)) for each in plans), merging_growth.measure(work, quick=quick)]
    )


async def _compare(plan: Plan, work: Path) -> str:
    work = work / plan.folder.name
    payloads = await asyncio.to_thread(
        read_and_edit, plan.folder, work / "programs", tuple(plan.clients), plan.layers, _PROMPTS
    )
    texts = []
    for isolation in ("shared", "sealed"):
        rows = []
        async with _replicas(plan, work / isolation, sealed=isolation == "sealed") as (alone, merging):
            with PurePasses(plan.folder, THREADS) as pure:
                for tokens, clients in plan.clients.items():
                    rounds = [
                        await _round(plan, pure, alone, merging, payloads[tokens], tokens, clients)
                        for _ in range(plan.rounds)
                    ]
                    rows += [(tokens, each, [one[each] for one in rounds]) for each in clients]
        title = f"Merged and one after the other, {isolation}, {plan.title}, {THREADS} threads"
        texts.append(f"{table(title, _COLUMNS, [_row(*each) for each in rows])}\n{_said_again(rows)}\n")
    return "\n".join(texts)


@asynccontextmanager
async def _replicas(plan: Plan, folder: Path, *, sealed: bool) -> AsyncIterator[tuple[Served, Served]]:
    """Two of the model: one that merges nothing, and one that does."""
    spec = ModelSpec(plan.model, str(plan.folder), threads=THREADS)
    async with (
        serving(spec, folder / "alone", sealed=sealed) as alone,
        serving(spec, folder / "merging", sealed=sealed, merging=MERGING) as merging,
    ):
        merging.merge = True
        yield alone, merging


async def _round(
    plan: Plan,
    pure: PurePasses,
    alone: Served,
    merging: Served,
    payloads: Sequence[Payload],
    tokens: int,
    clients: Sequence[int],
) -> dict[int, Round]:
    """By the number of clients."""
    one = await asyncio.to_thread(pure.seconds, 1, tokens)
    sequential = await keep_busy(sender(alone, payloads), 1, plan.jobs)
    found = {}
    for count in clients:
        rows = min(count, MERGING.rows)
        batch = one if rows == 1 else await asyncio.to_thread(pure.seconds, rows, tokens)
        merged = await keep_busy(sender(merging, payloads), count, max(plan.jobs, count))
        found[count] = Round(rows * one / batch, sequential, merged)
        await asyncio.sleep(_REST_S * count)
    return found


def sender(served: Served, payloads: Sequence[Payload]) -> Run:
    """Runs the payloads by turns."""
    return lambda number: served.run(payloads[number % len(payloads)])


_COLUMNS = (
    "tokens",
    "clients",
    "one after the other, jobs/s",
    "merged, jobs/s",
    "gain",
    "limit's gain",
    "of the limit",
    "rows of a shared pass",
    "jobs that shared one",
    "run again, alone",
    "in the replica: p50, ms",
    "p99, ms",
    "load generator, CPU ms/job",
)


def _row(tokens: int, clients: int, rounds: Sequence[Round]) -> tuple[object, ...]:
    merged = [each.merged for each in rounds]
    rows = [each.rows_per_pass for each in merged if each.rows_per_pass is not None]
    return (
        tokens,
        clients,
        spread([each.sequential.jobs_per_second for each in rounds]),
        spread([each.jobs_per_second for each in merged]),
        f"{spread([each.gain for each in rounds], digits=2)} x",
        f"{spread([each.limit_gain for each in rounds], digits=2)} x",
        f"{statistics.median(each.of_limit for each in rounds):.0%}",
        f"{statistics.mean(rows):.1f}" if rows else "-",
        f"{statistics.mean(each.in_company for each in merged):.0%}",
        sum(each.again.total() for each in merged),
        f"{statistics.median(each.time_in_replica(0.5) for each in merged) * 1e3:.0f}",
        f"{max(each.time_in_replica(0.99) for each in merged) * 1e3:.0f}",
        f"{statistics.median(each.cpu_per_job_s for each in merged) * 1e3:.1f}",
    )


def _said_again(rows: Sequence[tuple[int, int, Sequence[Round]]]) -> str:
    """Why jobs were run again."""
    again: Counter[str] = Counter()
    for _, _, rounds in rows:
        for each in rounds:
            again += each.merged.again
    said = "; ".join(f"{count} because {reason}" for reason, count in again.most_common())
    return f"Run again, alone: {said or 'none'}."
