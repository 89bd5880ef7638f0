"""What a program sets for its whole process is its own, in company too, and nobody meets it: neither at the same time nor later."""

from pathlib import Path

import pytest

from edif.wire.link import ModelSpec
from tests.merging.test_random_programs import EVERYTHING, IDS, compare
from tests.support.programs.payloads import Payload, payloads
from tests.support.programs.program import Program
from tests.support.programs.serving import serving
from tests.support.programs.unusual import modes, neighbours, settings

DIED = "it was there when the process ended"
Minted = dict[str, Payload]


@pytest.fixture(scope="module")
def minted(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Minted:
    programs = [*neighbours(), *modes(), *settings()]
    requests = payloads(programs, models[IDS["gpt2"]], tmp_path_factory.mktemp("programs"))
    return {each.program.name: each for each in requests}


@pytest.mark.parametrize("isolation", ["shared", "sealed"])
async def test_nobody_sees_what_another_one_sets(
    isolation: str, minted: Minted, models: dict[str, Path], tmp_path: Path
) -> None:
    spec = ModelSpec(IDS["gpt2"], str(models[IDS["gpt2"]]))
    # Of a sealed job's process nobody else has any part: only what the model computes can differ.
    programs = modes() if isolation == "sealed" else [*modes(), *settings()]
    wrong: list[str] = []
    met: list[bool] = []
    async with serving(spec, tmp_path / "served", sealed=isolation == "sealed", merging=EVERYTHING) as served:
        known = {each.name: await served.run(minted[each.name]) for each in neighbours()}
        for program in programs:
            served.merge = False
            known[program.name] = await served.run(minted[program.name])
            served.merge = True
            crowd = _around(program)
            found = await served.run_all([minted[each.name] for each in crowd], at_once=len(crowd))
            for each, outcome in zip(crowd, found, strict=True):
                wrong += [
                    f"{each.name} beside {program.name}: {what}\n{program.source}"
                    for what in compare(known[each.name], outcome)
                ]
                assert outcome.why_alone != DIED, program.source
            met += [outcome.in_company for each, outcome in zip(crowd, found, strict=True) if each != program]
    assert not wrong, f"{len(wrong)} differ\n" + "\n".join(wrong[:5])
    print(f"{sum(met)} of {len(met)} neighbours in company")
    assert sum(met) >= len(met) / 4


def _around(program: Program) -> list[Program]:
    """It stands in it twice, for what it would meet of itself."""
    first, second = neighbours()
    return [first, program, second, program, first]
