"""What a program sets for its whole process is its own, in company too, and nobody meets it: neither at the same time nor later."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edif.wire.link import Merging, ModelSpec
from edif.worker.tries import WAS_THERE
from tests.merging.test_padded_programs import PADDED, WITHIN
from tests.merging.test_random_programs import EVERYTHING, IDS, compare
from tests.sizes import SOAK
from tests.support.programs.payloads import Payload, payloads
from tests.support.programs.program import Program
from tests.support.programs.results import Tolerance
from tests.support.programs.serving import serving
from tests.support.programs.unusual import longer_neighbours, modes, neighbours, settings

Minted = dict[str, Payload]


@pytest.fixture(scope="module")
def minted(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Minted:
    programs = [*neighbours(), *longer_neighbours(), *modes(), *settings()]
    requests = payloads(programs, models[IDS["gpt2"]], tmp_path_factory.mktemp("programs"))
    return {each.program.name: each for each in requests}


@pytest.mark.parametrize("isolation", ["shared", "sealed"])
async def test_nobody_sees_what_another_one_sets(
    isolation: str, minted: Minted, models: dict[str, Path], tmp_path: Path
) -> None:
    found = await _all_among(neighbours(), _of(isolation), isolation, EVERYTHING, minted, models, tmp_path)
    found.hold()


@pytest.mark.parametrize("isolation", ["shared", "sealed"])
async def test_nor_where_prompts_are_padded(
    isolation: str, minted: Minted, models: dict[str, Path], tmp_path: Path
) -> None:
    """Its neighbours have longer prompts than it has, so if it shares their pass it is padded."""
    programs = _of(isolation)[:: 1 if SOAK else 4]
    found = await _all_among(
        longer_neighbours(), programs, isolation, PADDED, minted, models, tmp_path, WITHIN
    )
    found.hold()
    assert found.programs_met > 0


def _of(isolation: str) -> list[Program]:
    """Of a sealed job's process nobody else has any part: only what the model computes can differ."""
    return modes() if isolation == "sealed" else [*modes(), *settings()]


@dataclass
class Found:
    """
    Attributes:
        wrong: what came out otherwise than alone.
        met: of each neighbour, each time, whether it shared a pass.
        programs_met: how often one of the programs did that are looked at.
    """

    wrong: list[str] = field(default_factory=list)
    met: list[bool] = field(default_factory=list)
    programs_met: int = 0

    def hold(self) -> None:
        assert not self.wrong, f"{len(self.wrong)} differ\n" + "\n".join(self.wrong[:5])
        print(f"{sum(self.met)} of {len(self.met)} neighbours in company, programs {self.programs_met} times")
        assert sum(self.met) >= len(self.met) / 4


async def _all_among(
    others: list[Program],
    programs: list[Program],
    isolation: str,
    merging: Merging,
    minted: Minted,
    models: dict[str, Path],
    folder: Path,
    within: Tolerance | None = None,
) -> Found:
    """Each program in the midst of the others; it stands there twice, for what it would meet of itself."""
    spec = ModelSpec(IDS["gpt2"], str(models[IDS["gpt2"]]))
    first, second = others
    result = Found()
    async with serving(spec, folder / "served", sealed=isolation == "sealed", merging=merging) as served:
        known = {each.name: await served.run(minted[each.name]) for each in others}
        for program in programs:
            served.merge = False
            known[program.name] = await served.run(minted[program.name])
            served.merge = True
            crowd = [first, program, second, program, first]
            found = await served.run_all([minted[each.name] for each in crowd], at_once=len(crowd))
            for each, outcome in zip(crowd, found, strict=True):
                result.wrong += [
                    f"{each.name} beside {program.name}: {what}\n{program.source}"
                    for what in compare(known[each.name], outcome, within)
                ]
                assert outcome.why_alone != WAS_THERE, program.source
                result.programs_met += each is program and outcome.in_company
            result.met += [
                outcome.in_company for each, outcome in zip(crowd, found, strict=True) if each != program
            ]
    return result
