"""One tensor of a pass stays one tensor for a job, whatever its neighbours put in the place of theirs."""

from pathlib import Path

import pytest

from edif.wire.link import ModelSpec
from tests.merging.test_random_programs import EVERYTHING, IDS, compare
from tests.support.programs.draft import HEADER
from tests.support.programs.payloads import Payload, payloads
from tests.support.programs.program import Program
from tests.support.programs.serving import serving

_ROW = (5, 9, 13, 2, 30, 7, 21, 11)
_BODIES = {
    # The block's output is the next one's input.
    "holds_and_edits": """
        held = model.transformer.h[1].output.save()
        model.transformer.h[2].input[:, -1] = -0.25
    """,
    "replaces": """
        model.transformer.h[1].output = model.transformer.h[1].output * 1.5
    """,
    "replaces_and_edits": """
        put = (model.transformer.h[1].output * 1.5).save()
        model.transformer.h[1].output = put
        model.transformer.h[2].input[:, -1] = -0.25
    """,
    "replaces_and_writes": """
        put = (model.transformer.h[1].output * 1.5).save()
        model.transformer.h[1].output = put
        model.transformer.h[2].ln_1.output.save()
        put[:] = 3.0
    """,
    "replaces_and_writes_to_the_old": """
        old = model.transformer.h[1].output.save()
        model.transformer.h[1].output = old * 1.5
        model.transformer.h[2].output.save()
        old[:] = 3.0
    """,
}


@pytest.fixture(scope="module")
def minted(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Payload]:
    return payloads(_programs(), models[IDS["gpt2"]], tmp_path_factory.mktemp("programs"))


@pytest.mark.parametrize("isolation", ["sealed", "shared"])
async def test_what_a_job_holds_changes_as_it_does_alone(
    isolation: str, minted: list[Payload], models: dict[str, Path], tmp_path: Path
) -> None:
    spec = ModelSpec(IDS["gpt2"], str(models[IDS["gpt2"]]))
    async with serving(spec, tmp_path / "served", sealed=isolation == "sealed", merging=EVERYTHING) as served:
        alone = [await served.run(each) for each in minted]
        served.merge = True
        by_itself = [await served.run(each) for each in minted]
        together = await served.run_all(minted, at_once=len(minted))
    for request, expected, *found in zip(minted, alone, by_itself, together, strict=True):
        assert expected.result is not None, expected.sentence
        assert [compare(expected, each) for each in found] == [[], []], request.program.source
    assert by_itself[0].why_alone == ""
    # With such neighbours it goes on with its own tensor, or is run alone: as time has it.
    assert together[0].in_company or "put a tensor in place" in together[0].why_alone
    assert together[1].in_company


def _programs() -> list[Program]:
    begin = f"    with model.trace(torch.tensor([{[*_ROW]}]), backend=backend):"
    end = "        logits = model.lm_head.output.save()"
    return [
        Program(
            name=name,
            family="gpt2",
            kind="trace",
            source=f"{HEADER}{begin}{body.rstrip()}\n{end}\n",
            prompts=((_ROW,),),
        )
        for name, body in _BODIES.items()
    ]
