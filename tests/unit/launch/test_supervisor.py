"""Which failures of a service the supervisor passes over, and for how long."""

from pathlib import Path

import pytest

from edif.core import errors
from edif.core.errors import ErrorCode, SetupError
from edif.launch.serve import Supervisor
from edif.settings import Settings

MANY = 1_000


def supervisor(folder: Path, said: list[str]) -> Supervisor:
    return Supervisor(Settings(data=folder), on_ready=said.append, on_wait=said.append)


@pytest.mark.parametrize("kind", [errors.STORE_UNREACHABLE, errors.STORAGE_FULL])
def test_what_can_pass_is_waited_for_however_long_and_told_once(tmp_path: Path, kind: ErrorCode) -> None:
    said: list[str] = []
    watching = supervisor(tmp_path, said)
    for failed in range(1, MANY):
        watching._pass_over(SetupError(kind, "It is away."), failed)
    assert said == [f"It is away. It is tried again until this has passed. [{kind.code}]"]
    watching._pass_over(SetupError(kind, "It is full."), MANY)
    assert len(said) == 2, "another reason is news"


def test_what_stands_in_the_configuration_ends_it_at_once(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no such model"):
        supervisor(tmp_path, [])._pass_over(SetupError(errors.CONFIG_INVALID, "There is no such model."), 1)


def test_what_nobody_knows_is_tried_five_times(tmp_path: Path) -> None:
    said: list[str] = []
    watching = supervisor(tmp_path, said)
    error = SetupError(errors.INTERNAL, "The gateway ends as soon as it starts.")
    for failed in range(1, 5):
        watching._pass_over(error, failed)
    with pytest.raises(SetupError, match="as soon as"):
        watching._pass_over(error, 5)
    assert said == []


def test_service_that_had_no_room_for_its_last_words_met_a_full_disk(tmp_path: Path) -> None:
    assert supervisor(tmp_path, [])._last_words("gateway", 120).kind is errors.STORAGE_FULL


def test_pauses_grow_and_have_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    def mocked_select(_: list[int], __: object, ___: object, timeout_s: float) -> tuple[list[int]]:
        waited.append(timeout_s)
        return ([],)

    monkeypatch.setattr("select.select", mocked_select)
    watching = supervisor(tmp_path, [])
    for failed in range(MANY):
        watching._pause(failed)
    assert waited == sorted(waited)
    assert (waited[0], waited[-1]) == (0.5, 30.0)
