"""What is said while something is tried again, and for how long it is."""

import pytest

from edif.client.retrying import Patience
from edif.core import errors
from edif.core.errors import EdifError


@pytest.fixture
def said() -> list[str]:
    return []


def test_short_trouble_is_not_worth_a_line(said: list[str]) -> None:
    patience = Patience("Sending the trace", said.append)
    assert 0 < patience.next_wait_s("it broke") <= 0.1
    patience.progress()
    assert said == []


def test_longer_trouble_is_told_once_with_its_end(said: list[str]) -> None:
    patience = Patience("Sending the trace", said.append)
    waits = [patience.next_wait_s("it broke", at_least_s=2.0) for _ in range(3)]
    assert waits == [2.0] * 3
    patience.progress()
    patience.progress()
    assert len(said) == 2
    assert said[0].startswith("Sending the trace has to wait: it broke.")
    assert said[1] == "Sending the trace goes on."


def test_waits_grow_to_a_bound_and_begin_anew_after_progress(said: list[str]) -> None:
    patience = Patience("Sending the trace", said.append)
    waits = [patience.next_wait_s("it broke") for _ in range(12)]
    assert waits[0] <= 0.1
    assert 2.5 <= waits[-1] <= 5.0
    patience.progress()
    assert patience.next_wait_s("it broke") <= 0.1


@pytest.mark.parametrize(("limit_s", "at_least_s"), [(0.0, 0.0), (10.0, 30.0)])
def test_patience_ends(limit_s: float, at_least_s: float, said: list[str]) -> None:
    with pytest.raises(EdifError, match=r"Asking the fabric failed.*: it is full") as caught:
        Patience("Asking the fabric", said.append, limit_s).next_wait_s("it is full", at_least_s)
    assert caught.value.kind is errors.FABRIC_UNREACHABLE
    assert said == []
