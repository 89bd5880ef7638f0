"""Drawn programs are what the tests that use them take them for: the same for a seed, varied, valid, and telling."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from edif.wire.link import ModelSpec
from tests.support.models import GPT2_ID, LLAMA_ID
from tests.support.programs import misfits
from tests.support.programs.drawing import ELEMENTS, KINDS, draw
from tests.support.programs.payloads import payloads
from tests.support.programs.program import FAMILIES, Program
from tests.support.programs.results import differences, loaded
from tests.support.programs.serving import Outcome, serving

IDS = {"gpt2": GPT2_ID, "llama": LLAMA_ID}


def test_a_seed_draws_the_same_program_in_every_process() -> None:
    words = (
        "from tests.support.programs.drawing import draw; print([draw(n, 'llama').source for n in range(40)])"
    )
    environment = {"PYTHONHASHSEED": "1"}
    elsewhere = subprocess.run(
        [sys.executable, "-c", words], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert elsewhere.strip() == str([draw(number, "llama").source for number in range(40)])


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_in_the_grammar_is_drawn(family: str) -> None:
    programs = [draw(seed, family) for seed in range(400)]
    assert {program.kind for program in programs} == set(KINDS)
    assert frozenset().union(*(program.elements for program in programs)) == ELEMENTS
    assert len({program.name for program in programs}) == len({program.source for program in programs}) == 400
    for program in programs:
        compile(program.source, program.name, "exec")


def test_enough_programs_could_share_a_pass() -> None:
    programs = [draw(seed, "gpt2") for seed in range(400)]
    assert sum(not program.lone for program in programs) > 300
    assert sum(program.length == 8 and not program.ragged for program in programs) > 150
    assert {program.rows for program in programs} >= {1, 2, 3}


async def test_drawn_programs_run_and_repeat_and_misfits_go_wrong(
    models: dict[str, Path], tmp_path: Path
) -> None:
    async with asyncio.TaskGroup() as both:  # most of the time goes into imports
        for family in FAMILIES:
            both.create_task(_run(family, models[IDS[family]], tmp_path / family))


async def _run(family: str, model: Path, folder: Path) -> None:
    programs = [draw(0, family, kind) for kind in KINDS] + [draw(seed, family) for seed in range(40, 60)]
    wrong = _misfits(family)
    requests = await asyncio.to_thread(payloads, [*programs, *wrong], model, folder / "programs")
    drawn, bad = requests[: len(programs)], requests[len(programs) :]
    async with serving(ModelSpec(IDS[family], str(model)), folder) as served:
        first = await served.run_all(drawn)
        again = await served.run_all(drawn, at_once=2)
        served.sealed = True
        went_wrong = await served.run_all(bad[:-1], at_once=3)
        endless = await served.run(bad[-1], time_limit_s=0.3)
    for program, one, other in zip(programs, first, again, strict=True):
        _assert_valid(program, one)
        _assert_valid(program, other)
        if one.result is not None and other.result is not None:
            assert differences(loaded(one.result), loaded(other.result)) == [], program.source
    raised, stopped, slept, exited, killed = went_wrong
    _assert_valid(wrong[0], raised)
    assert [_names(each) for each in (stopped, slept)] == [{"before"}, {"before", "after"}]
    assert [each.code for each in (exited, killed, endless)] == ["died", "died", "time_limit"]
    assert "code 3" in exited.sentence


def _misfits(family: str) -> list[Program]:
    return [
        misfits.raising(family),
        misfits.stopping(family),
        misfits.sleeping(family, 0.2),
        misfits.exiting(family),
        misfits.killed(family),
        misfits.endless(family),
    ]


def _assert_valid(program: Program, outcome: Outcome) -> None:
    if program.raises is None:
        assert outcome.result is not None, f"{outcome.sentence}\n{program.source}"
        assert _names(outcome) >= program.saves - _unreached(program), program.source
    else:
        assert outcome.code == "user_code", program.source
        assert program.raises in outcome.sentence


def _unreached(program: Program) -> frozenset[str]:
    """What a generation that ends early, or a loop over steps that are not there, leaves unsaved."""
    return frozenset({"tokens"}) if program.steps else frozenset()


def _names(outcome: Outcome) -> set[str]:
    assert outcome.result is not None, outcome.sentence
    return set(loaded(outcome.result))
