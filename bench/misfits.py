"""What jobs that go wrong cost the others in their passes: a merged fabric with and without them, sealed and shared, in turn.

One job in ten raises, one in ten stops early, one in fifty sleeps, one in a hundred is killed.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.fabric import start_fabric
from tests.support.programs.misfits import killed, raising, sleeping, stopping
from tests.support.programs.payloads import Payload, payloads
from tests.support.programs.program import Program
from tests.support.replay import Outcome, Replayer

from bench.subjects import DEMO
from bench.tables import quantile, spread, table

_MODEL = "edif/demo"
_CLIENTS = 16
_JOBS, _ROUNDS = 300, 4
"""Of nearly a thousand innocent jobs beside others, ten are above the p99."""
_QUICK_JOBS, _QUICK_ROUNDS = 100, 1
_LENGTH = 8
_SLEEP_S = 1.0
_OUT_OF_HUNDRED = {"raises": 10, "stops": 10, "sleeps": 2, "killed": 1}
_INNOCENT = "trace"
_FAIL = ("raises", "killed")
COLUMNS = (
    *("isolation", "jobs that go wrong", "innocent jobs", "of them in company", "p50, ms", "p99, ms"),
    *("p50 to none", "p99 to none", "of each round"),
)


@dataclass(slots=True)
class Times:
    """Of the innocent jobs with one mix of others.

    Attributes:
        rounds: the seconds that each job of a round took, from the connection to its result.
        in_company: how many of all had a pass with rows of somebody else.
    """

    rounds: list[list[float]] = field(default_factory=list)
    in_company: int = 0

    def note(self, innocent: Sequence[Outcome]) -> None:
        self.rounds.append([each.seconds for each in innocent])
        self.in_company += sum(each.final["meta"].get("shared_rows", 0) > 1 for each in innocent)

    @property
    def seconds(self) -> list[float]:
        return [each for one in self.rounds for each in one]


def measure(work: Path, *, quick: bool = False) -> str:
    jobs, rounds = (_QUICK_JOBS, _QUICK_ROUNDS) if quick else (_JOBS, _ROUNDS)
    return asyncio.run(_measure(work, jobs, rounds))


async def _measure(work: Path, jobs: int, rounds: int) -> str:
    programs = [
        _innocent(),
        raising("gpt2", _LENGTH),
        stopping("gpt2", _LENGTH),
        sleeping("gpt2", _SLEEP_S, _LENGTH),
        killed("gpt2", _LENGTH),
    ]
    minted = {each.program.kind: each for each in payloads(programs, DEMO, work / "programs")}
    rows = []
    for isolation in ("sealed", "shared"):
        rows += compared(isolation, *await _compare(work / isolation, isolation, minted, jobs, rounds))
    title = (
        f"Innocent jobs of {_CLIENTS} clients in merged passes, {rounds} rounds of {jobs} jobs, 4-layer model"
    )
    return table(title, COLUMNS, rows)


async def _compare(
    work: Path, isolation: str, minted: dict[str, Payload], jobs: int, rounds: int
) -> tuple[Times, Times]:
    """Without and with others among them, which take the places of as many innocent ones; in turn, each first in every other round.

    Passes are shared whether that pays or not: a model as small as this one's would otherwise share none in sealed jobs.
    """
    fabric = start_fabric(
        *(work, "--model", f"{_MODEL}={DEMO}"),
        EDIF_ISOLATION=isolation,
        EDIF_MERGE="always",
        EDIF_MERGE_WAIT_S="0.025",  # as long as where it is left to the fabric
        EDIF_MERGE_TOLERANCE="1000",
    )
    quiet, mixed = Times(), Times()
    try:
        fabric.wait_running(_MODEL)
        async with Replayer(fabric.url, work, model=_MODEL) as client:
            await _load(client, minted, [_INNOCENT] * _CLIENTS * 2)
            for number in range(rounds):
                both = [(quiet, [_INNOCENT] * jobs), (mixed, mix(number, jobs))]
                for times, kinds in both if number % 2 == 0 else reversed(both):
                    times.note(await _load(client, minted, kinds))
    finally:
        fabric.stop()
    return quiet, mixed


def mix(number: int, jobs: int) -> list[str]:
    """The kinds of the jobs of one round, in their order; ``jobs`` is a multiple of a hundred."""
    wrong = [kind for kind, count in _OUT_OF_HUNDRED.items() for _ in range(count * jobs // 100)]
    kinds = wrong + [_INNOCENT] * (jobs - len(wrong))
    random.Random(number).shuffle(kinds)
    return kinds


async def _load(client: Replayer, minted: dict[str, Payload], kinds: Sequence[str]) -> list[Outcome]:
    """Send jobs of these kinds from all clients at once; what came of the innocent ones.

    Raises:
        RuntimeError: a job ended otherwise than its kind does.
    """
    left = iter(kinds)
    innocent: list[Outcome] = []

    async def one_client() -> None:
        for kind in left:
            outcome = await client.run("request.raw", blob=minted[kind].body, env=minted[kind].env)
            if outcome.status != ("ERROR" if kind in _FAIL else "COMPLETED"):
                raise RuntimeError(f"{kind}: {outcome.status}: {outcome.description}")
            if kind == _INNOCENT:
                innocent.append(outcome)

    async with asyncio.TaskGroup() as group:
        for _ in range(_CLIENTS):
            group.create_task(one_client())
    return innocent


def compared(isolation: str, quiet: Times, mixed: Times) -> list[tuple[object, ...]]:
    """Two rows of the table; the last column has the ratios of the p99, of each round by itself."""
    rows: list[tuple[object, ...]] = []
    base = [quantile(quiet.seconds, q) for q in (0.5, 0.99)]
    wrong = sum(_OUT_OF_HUNDRED.values())
    for name, times in (("none", quiet), (f"{wrong} in 100", mixed)):
        values = [quantile(times.seconds, q) for q in (0.5, 0.99)]
        ratios = [f"{one / other:.2f}x" for one, other in zip(values, base, strict=True)]
        by_round = [
            quantile(one, 0.99) / quantile(other, 0.99)
            for one, other in zip(times.rounds, quiet.rounds, strict=True)
        ]
        count = len(times.seconds)
        rows.append(
            (
                *(isolation, name, count, f"{times.in_company / count:.0%}"),
                *(f"{each * 1000:.0f}" for each in values),
                *(*ratios, f"{spread(by_round, digits=2)} x"),
            )
        )
    return rows


def _innocent() -> Program:
    stopped = stopping("gpt2", _LENGTH)
    source = stopped.source.replace("tracer.stop()", "after = model.lm_head.output[:, -1].save()")
    return Program("gpt2-trace", "gpt2", _INNOCENT, source, stopped.prompts)
