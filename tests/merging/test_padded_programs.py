"""Random programs with prompts of different length give in one pass what they give alone, but for the last bits."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from edif.core.limits import Padding
from edif.wire.link import Merging, ModelSpec
from tests.merging.test_random_programs import BATCH, IDS, compare, run_in_crowds
from tests.sizes import SIZES
from tests.support.programs.drawing import draw
from tests.support.programs.payloads import Payload, payloads
from tests.support.programs.program import Program
from tests.support.programs.results import Tolerance
from tests.support.programs.serving import Outcome, Served, serving

PADDED = Merging(rows=16, tokens=4096, tolerance=64.0, alone_at_once=2, always=True, padding=Padding.ON)
LENGTHS = (8, 12)
"""Both drawn, and of one bucket."""
KINDS = ("trace", "invokes", "trace", "session", "trace", "edited")
WITHIN = Tolerance(absolute=1e-4, relative=1e-4)
"""A program may make what the pass rounds a hundred times larger; another's row is further off by far."""


@pytest.mark.parametrize(("family", "isolation"), [("gpt2", "sealed"), ("llama", "shared")])
async def test_programs_of_different_length_give_in_company_what_they_give_alone(
    family: str, isolation: str, models: dict[str, Path], tmp_path: Path
) -> None:
    count = SIZES.padded_programs // 2
    spec = ModelSpec(IDS[family], str(models[IDS[family]]))
    drawn = programs(family)
    wrong: list[str] = []
    met: list[Outcome] = []
    async with serving(spec, tmp_path / "served", sealed=isolation == "sealed", merging=PADDED) as served:
        for first in range(0, count, BATCH):
            some = list(itertools.islice(drawn, min(BATCH, count - first)))
            requests = await asyncio.to_thread(
                payloads, some, models[IDS[family]], tmp_path / f"programs{first}"
            )
            alone = await run_in_crowds(served, requests, seed=first, merge=False)
            merged = await run_in_pairs(served, requests)
            for request, one, other in zip(requests, alone, merged, strict=True):
                wrong += [
                    f"{request.program.name}: {each}\n{request.program.source}"
                    for each in compare(one, other, WITHIN)
                ]
            met += merged
    assert not wrong, f"{len(wrong)} differ\n" + "\n".join(wrong[:5])
    in_company = sum(each.in_company for each in met)
    print(f"{in_company} of {count} in company; run again, alone: {Counter(each.why_alone for each in met)}")
    assert in_company >= count / 5


def programs(family: str) -> Iterator[Program]:
    """Such as may share passes, two of each kind and of unlike length."""
    seeds = itertools.count(10_000)
    for kind in itertools.cycle(KINDS):
        for length in LENGTHS:
            found = (draw(seed, family, kind) for seed in seeds)
            yield next(each for each in found if each.length == length and "ragged" not in each.elements)


async def run_in_pairs(served: Served, requests: Sequence[Payload]) -> list[Outcome]:
    """Run all, two of unlike length at a time: a pass that one of them shares is one with padding."""
    served.merge = True
    outcomes: list[Outcome] = []
    for first in range(0, len(requests), 2):
        outcomes += await served.run_all(requests[first : first + 2], at_once=2)
    return outcomes
