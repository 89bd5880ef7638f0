"""What a shared pass costs beyond the model's own, as more jobs take part in it and read more of its layers."""

import asyncio
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.programs.payloads import Payload
from tests.support.programs.serving import Served, serving

from bench.closed_loop import keep_busy
from bench.small_traces import read_layers
from bench.subjects import PurePasses, make_gpt2
from bench.tables import table
from edif.wire.link import Merging, ModelSpec

_LAYERS = 12
_TOKENS = 8
_WORKERS = (1, 4, 16, 64)
_READ = (1, _LAYERS // 2, _LAYERS)
_FEWEST_JOBS, _PASSES = 8, 3
_MERGING = Merging(rows=64, tokens=4096, tolerance=64.0, alone_at_once=4, always=True)
_THREADS = len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Growth:
    """Shared passes of so many workers with one row each, and the same rows in plain PyTorch.

    Attributes:
        layers: that each worker reads; as many visits it has.
    """

    workers: int
    layers: int
    pass_s: float
    pure_s: float

    @property
    def over_s(self) -> float:
        return self.pass_s - self.pure_s

    @property
    def per_worker_s(self) -> float:
        return self.over_s / self.workers

    @property
    def per_visit_s(self) -> float:
        return self.per_worker_s / self.layers


def fullest(passes: Sequence[tuple[int, float]]) -> tuple[int, float] | None:
    """The rows of the largest pass, and the median seconds of those that had as many.

    Args:
        passes: rows and seconds of each.

    Returns:
        None if there is no pass.
    """
    if not passes:
        return None
    rows = max(rows for rows, _ in passes)
    return rows, statistics.median(seconds for each, seconds in passes if each == rows)


def measure(work: Path, *, quick: bool = False) -> str:
    # Narrow, so that what is measured is not lost in the model's own time.
    folder = make_gpt2(work / "narrow", n_embd=128, n_layer=_LAYERS, n_head=4)
    payloads = read_layers(folder, work / "growth-programs", _TOKENS, _LAYERS, _READ)
    workers = (1, 16) if quick else _WORKERS
    title = f"Growth: passes of {_LAYERS} layers, 128 wide, {_TOKENS} tokens a row, {_THREADS} threads"
    rows = []
    for isolation in ("shared", "sealed"):
        found = asyncio.run(
            _grow(folder, work / f"growth-{isolation}", payloads, workers, sealed=isolation == "sealed")
        )
        rows += [_row(isolation, each) for each in found]
    return table(title, _COLUMNS, rows)


async def _grow(
    model: Path, folder: Path, payloads: Sequence[Payload], workers: Sequence[int], *, sealed: bool
) -> list[Growth]:
    spec = ModelSpec("bench/narrow", str(model), threads=_THREADS)
    async with serving(spec, folder, sealed=sealed, merging=_MERGING) as served:
        served.merge = True
        with PurePasses(model, _THREADS) as pure:
            found = [
                await _measure_one(served, pure, payload, layers, count)
                for count in workers
                for layers, payload in zip(_READ, payloads, strict=True)
            ]
    return [each for each in found if each is not None]


async def _measure_one(
    served: Served, pure: PurePasses, payload: Payload, layers: int, workers: int
) -> Growth | None:
    window = await keep_busy(lambda _: served.run(payload), workers, max(_FEWEST_JOBS, _PASSES * workers))
    found = fullest(window.passes)
    if found is None:  # all of them were put out of their passes and run again, alone
        return None
    rows, seconds = found
    return Growth(rows, layers, seconds, await asyncio.to_thread(pure.seconds, rows, _TOKENS))


_COLUMNS = (
    "",
    "workers in the pass",
    "layers read",
    "pass, ms",
    "plain PyTorch, ms",
    "over it, ms",
    "a worker, ms",
    "a visit, ms",
)


def _row(isolation: str, growth: Growth) -> tuple[object, ...]:
    seconds = (growth.pass_s, growth.pure_s, growth.over_s, growth.per_worker_s, growth.per_visit_s)
    return isolation, growth.workers, growth.layers, *(f"{each * 1e3:.2f}" for each in seconds)
