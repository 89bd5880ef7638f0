"""What jobs that go wrong cost the others in their passes: a merged fabric with and without them, sealed and shared, in turn.

One job in ten raises, one in ten stops early, one in fifty sleeps, one in a hundred is killed.
"""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

from tests.support.fabric import start_fabric
from tests.support.programs.misfits import killed, raising, sleeping, stopping
from tests.support.programs.payloads import Payload, payloads
from tests.support.programs.program import Program
from tests.support.replay import Replayer

from bench.subjects import DEMO
from bench.tables import quantile, table

_MODEL = "edif/demo"
_CLIENTS = 16
_JOBS = 200
_ROUNDS = 4
_LENGTH = 8
_SLEEP_S = 1.0
_OUT_OF_HUNDRED = {"raises": 10, "stops": 10, "sleeps": 2, "killed": 1}


def measure(work: Path) -> str:
    return asyncio.run(_measure(work))


async def _measure(work: Path) -> str:
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
        times = await _compare(work / isolation, isolation, minted)
        quiet, mixed = ([quantile(times[name], q) * 1000 for q in (0.5, 0.99)] for name in ("quiet", "mixed"))
        for name, values in (("none", quiet), ("23 in 100", mixed)):
            ratios = [f"{one / other:.2f}x" for one, other in zip(values, quiet, strict=True)]
            rows.append((isolation, name, f"{values[0]:.0f}", f"{values[1]:.0f}", *ratios))
    return table(
        f"Innocent jobs of {_CLIENTS} clients in merged passes, {_ROUNDS} rounds of {_JOBS} jobs, 4-layer model",
        ("isolation", "jobs that go wrong", "p50, ms", "p99, ms", "p50 to none", "p99 to none"),
        rows,
    )


async def _compare(work: Path, isolation: str, minted: dict[str, Payload]) -> dict[str, list[float]]:
    """Whole times of innocent jobs, without and with others among them, which take the places of as many innocent ones."""
    fabric = start_fabric(
        work, "--model", f"{_MODEL}={DEMO}", EDIF_ISOLATION=isolation, EDIF_MERGE_TOLERANCE="1000"
    )
    times: dict[str, list[float]] = {"quiet": [], "mixed": []}
    try:
        fabric.wait_running(_MODEL)
        async with Replayer(fabric.url, work, model=_MODEL) as client:
            await _load(client, minted, ["trace"] * _CLIENTS)
            for number in range(_ROUNDS):
                for name, kinds in (("quiet", ["trace"] * _JOBS), ("mixed", _mix(number))):
                    times[name] += await _load(client, minted, kinds)
    finally:
        fabric.stop()
    return times


def _mix(number: int) -> list[str]:
    wrong = [kind for kind, count in _OUT_OF_HUNDRED.items() for _ in range(count * _JOBS // 100)]
    kinds = wrong + ["trace"] * (_JOBS - len(wrong))
    random.Random(number).shuffle(kinds)
    return kinds


async def _load(client: Replayer, minted: dict[str, Payload], kinds: Sequence[str]) -> list[float]:
    """Send jobs of these kinds from all clients at once; seconds that each innocent one took."""
    left = iter(kinds)
    seconds: list[float] = []

    async def one_client() -> None:
        for kind in left:
            outcome = await client.run("request.raw", blob=minted[kind].body, env=minted[kind].env)
            if kind == "trace":
                assert outcome.status == "COMPLETED", outcome.description
                seconds.append(outcome.seconds)

    await asyncio.gather(*(one_client() for _ in range(_CLIENTS)))
    return seconds


def _innocent() -> Program:
    stopped = stopping("gpt2", _LENGTH)
    source = stopped.source.replace("tracer.stop()", "after = model.lm_head.output[:, -1].save()")
    return Program("gpt2-trace", "gpt2", "trace", source, stopped.prompts)
