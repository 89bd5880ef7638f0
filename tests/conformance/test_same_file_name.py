"""Two scripts with one file name, one after the other on the same replica, do not see each other."""

import pytest

from tests.conformance.catalogue import FAMILIES
from tests.conformance.comparing import differences, returned
from tests.conformance.conftest import SCRIPTS, Outcome


@pytest.mark.parametrize("family", FAMILIES)
def test_each_script_gets_its_own_blocks_run(outcome: Outcome, family: str) -> None:
    first = returned(outcome.remote, f"experiment.experiment[{family}]")
    second = returned(outcome.second, f"experiment.experiment[{family}]")
    assert list(differences(first, returned(outcome.local, f"experiment.experiment[{family}]"))) == []
    assert (
        list(differences(second, returned(outcome.local, f"experiment_of_another.experiment[{family}]")))
        == []
    )
    for name in first:
        assert list(differences(first[name], second[name])), f"{name} cannot tell the scripts apart"


def test_their_blocks_begin_on_the_same_lines() -> None:
    """Otherwise the test above could not fail."""
    first, second = ((SCRIPTS / name).read_text().splitlines() for name in ("first.py", "second.py"))
    opened = [number for number, line in enumerate(first) if line.lstrip().startswith("with ")]
    assert len(opened) >= 6
    assert opened == [number for number, line in enumerate(second) if line.lstrip().startswith("with ")]
