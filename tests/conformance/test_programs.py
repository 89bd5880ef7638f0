"""Ordinary nnsight programs give on the fabric what they give locally, and their interventions take effect.

In what a program returns, ``plain_x`` is ``x`` without the intervention, and must differ from it; ``same_x``
is ``x`` come by in another way, and must equal it.
"""

import pytest

from tests.conformance.catalogue import Program, catalogue
from tests.conformance.comparing import compared, differences, returned
from tests.conformance.conftest import Outcome

ALL = catalogue()


@pytest.mark.parametrize("program", ALL, ids=lambda program: program.id)
def test_bits_are_those_of_a_local_run(outcome: Outcome, program: Program) -> None:
    remote = compared(returned(outcome.remote, program.id))
    assert list(differences(remote, compared(returned(outcome.local, program.id)))) == []


@pytest.mark.parametrize("program", [each for each in ALL if not each.reads], ids=lambda program: program.id)
def test_intervention_changes_what_it_should(outcome: Outcome, program: Program) -> None:
    value = returned(outcome.remote, program.id)
    baselines = [name for name in value if name.startswith("plain_")]
    assert baselines, "the program has no run without its intervention"
    for name in baselines:
        assert list(differences(value[name.removeprefix("plain_")], value[name])), f"{name} does not differ"


@pytest.mark.parametrize("program", ALL, ids=lambda program: program.id)
def test_runs_that_should_agree_agree(outcome: Outcome, program: Program) -> None:
    value = returned(outcome.remote, program.id)
    for name in value:
        if name.startswith("same_"):
            assert list(differences(value[name.removeprefix("same_")], value[name], name)) == []


def test_after_a_careless_job_the_next_one_finds_everything_as_before(outcome: Outcome) -> None:
    after = returned(outcome.remote, "careless.after_careless_jobs[gpt2]")
    assert len(after) > 10
    for name, session in after.items():
        assert list(differences(session, after["_at_first"], name)) == []
