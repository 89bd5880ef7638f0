"""Random programs give the same bits in company as alone, and none is the worse for what another one does."""

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from edif.wire.link import Merging, ModelSpec
from tests.sizes import SIZES
from tests.support.models import GPT2_ID, LLAMA_ID
from tests.support.programs.drawing import draw
from tests.support.programs.payloads import Payload, payloads
from tests.support.programs.program import FAMILIES
from tests.support.programs.results import Tolerance, differences, loaded
from tests.support.programs.serving import Outcome, Served, serving

IDS = {"gpt2": GPT2_ID, "llama": LLAMA_ID}
EVERYTHING = Merging(rows=16, tokens=4096, tolerance=0.0, alone_at_once=2, always=True)
LARGEST_CROWD = 14
BATCH = 250
"""Programs that are minted together, and run by one test."""
PARTS = [
    range(first, min(first + BATCH, SIZES.merged_programs // len(FAMILIES)))
    for first in range(0, SIZES.merged_programs // len(FAMILIES), BATCH)
]
"""Of the seeds of each family."""


@dataclass(frozen=True, repr=False)
class Part:
    """Some programs of one family, ready to be sent."""

    model: ModelSpec
    seeds: range
    requests: list[Payload]


@pytest.fixture(
    scope="module",
    params=itertools.product(FAMILIES, PARTS),
    ids=lambda part: f"{part[0]}-{part[1].start}-{part[1].stop - 1}",
)
def part(
    request: pytest.FixtureRequest, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Part:
    """Minted once for both kinds of isolation."""
    family, seeds = request.param
    folder = models[IDS[family]]
    programs = [draw(seed, family) for seed in seeds]
    requests = payloads(programs, folder, tmp_path_factory.mktemp("programs"))
    return Part(ModelSpec(IDS[family], str(folder)), seeds, requests)


@pytest.mark.parametrize("isolation", ["sealed", "shared"])
async def test_programs_in_company_give_the_bits_that_they_give_alone(
    part: Part, isolation: str, tmp_path: Path
) -> None:
    async with serving(part.model, tmp_path, sealed=isolation == "sealed", merging=EVERYTHING) as served:
        alone = await run_in_crowds(served, part.requests, seed=part.seeds.start, merge=False)
        merged = await run_in_crowds(served, part.requests, seed=part.seeds.start, merge=True)
    wrong = [
        f"{request.program.name}: {each}\n{request.program.source}"
        for request, one, other in zip(part.requests, alone, merged, strict=True)
        for each in compare(one, other)
    ]
    assert not wrong, f"{len(wrong)} differ\n" + "\n".join(wrong[:5])
    in_company = sum(each.in_company for each in merged)
    reasons = Counter(each.why_alone for each in merged)
    print(f"{in_company} of {len(merged)} in company; run again, alone: {reasons}")
    # Of what is drawn, two in three can be merged; who meets whom is a matter of time.
    assert in_company >= len(merged) / 10


async def run_in_crowds(
    served: Served, requests: Sequence[Payload], *, seed: int, merge: bool
) -> list[Outcome]:
    """Run all, in an order and in crowds that the seed draws; the outcomes are in the order of the requests.

    Those in a crowd are mostly alike, for only alike ones share a pass.
    """
    served.merge = merge
    chance = random.Random(seed)
    left = list(range(len(requests)))
    chance.shuffle(left)
    outcomes: dict[int, Outcome] = {}
    while left:
        first = requests[left[0]].program
        alike = [each for each in left if _kind(requests[each]) == (first.length, first.steps)]
        size = chance.randint(2, LARGEST_CROWD) if merge else 2
        crowd = (alike + [each for each in left if each not in alike])[:size]
        left = [each for each in left if each not in crowd]
        ran = await served.run_all([requests[each] for each in crowd], at_once=len(crowd))
        outcomes.update(zip(crowd, ran, strict=True))
    return [outcomes[each] for each in range(len(requests))]


def _kind(request: Payload) -> tuple[int, int]:
    return request.program.length, request.program.steps


def compare(alone: Outcome, merged: Outcome, tolerance: Tolerance | None = None) -> list[str]:
    if alone.result is None or merged.result is None:
        same = (alone.code, alone.sentence, alone.log) == (merged.code, merged.sentence, merged.log)
        return [] if same else [f"{alone} against {merged}"]
    found = differences(loaded(alone.result), loaded(merged.result), tolerance)
    return found if alone.log == merged.log else [*found, f"printed {alone.log!r} against {merged.log!r}"]
