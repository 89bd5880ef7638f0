"""The data folder: locks between processes, secrets, facts about who runs."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from edif.core import errors
from edif.core.errors import SetupError
from edif.launch.data_folder import DataFolder
from tests.unit.helpers import fill

HOLDER = """
import sys
from pathlib import Path
from edif.launch.data_folder import DataFolder

folder = DataFolder(Path(sys.argv[1]))
with folder.hold(sys.argv[2]):
    folder.note(sys.argv[2], {"pid": 1, "url": "http://127.0.0.1:1"})
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another_process(folder: DataFolder, name: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder.root), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()
        process.wait()


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path / "data")
    folder.prepare()
    return folder


# -- preparing -----------------------------------------------------------------------------------------
def test_prepared_folder_is_its_owners_alone_and_may_be_prepared_again(folder: DataFolder) -> None:
    for made in (folder.root, folder.run, folder.blobs):
        assert made.stat().st_mode & 0o777 == 0o700
    before = sorted(folder.root.rglob("*"))
    folder.prepare()
    assert sorted(folder.root.rglob("*")) == before, "the probe is removed"


@pytest.mark.parametrize("below", ["data", "deep/data"])
def test_folder_that_cannot_be_made_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="file") as refused:
        DataFolder(tmp_path / "file" / below).prepare()
    assert refused.value.kind is errors.DATA_UNWRITABLE


def test_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(SetupError) as refused:
        DataFolder(tmp_path / "data").prepare()
    assert refused.value.kind is errors.DATA_UNWRITABLE


def test_full_disk_is_told_apart_from_a_folder_that_cannot_be_written(small_disk: Path) -> None:
    folder = DataFolder(small_disk / "data")
    folder.prepare()
    fill(small_disk)
    with pytest.raises(SetupError) as refused, folder.while_there_is_room():
        folder.note("gateway", {"pid": 1})
    assert refused.value.kind is errors.STORAGE_FULL


# -- locks ---------------------------------------------------------------------------------------------
def test_what_another_process_holds_cannot_be_held(folder: DataFolder) -> None:
    with held_by_another_process(folder, "gateway"):
        assert folder.held("gateway")
        with pytest.raises(SetupError, match="gateway") as refused, folder.hold("gateway"):
            pytest.fail("two gateways on one folder")
        assert refused.value.kind is errors.DATA_IN_USE
        assert str(folder.root) in refused.value.sentence
        with folder.hold("agent"):
            assert folder.held("agent")
    with folder.hold("gateway"):
        assert folder.held("gateway")


def test_what_is_no_longer_held_can_be_held_again(folder: DataFolder) -> None:
    assert not folder.held("gateway")
    for _ in range(2):
        with folder.hold("gateway"):
            assert folder.held("gateway")
    assert not folder.held("gateway")


def test_lock_ends_with_its_process_however_that_ends(folder: DataFolder) -> None:
    with held_by_another_process(folder, "gateway") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with folder.hold("gateway"):
            pass


def test_lock_is_not_inherited_by_programs_that_are_started(folder: DataFolder) -> None:
    """A replica that outlives its agent must not keep the folder."""
    with folder.hold("agent"):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert not folder.held("agent")
    finally:
        assert child.stdin is not None
        child.stdin.close()
        child.wait()


def test_asking_who_runs_does_not_keep_a_service_from_starting(
    folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor asks 50 times a second while the gateway starts."""
    flock = fcntl.flock
    refused: list[SetupError] = []

    def starting_just_then(file: IO[str], operation: int) -> None:
        flock(file, operation)  # the asker has it now ...
        monkeypatch.setattr(fcntl, "flock", flock)
        try:
            with folder.hold("gateway"):  # ... and the gateway starts
                pass
        except SetupError as error:
            refused.append(error)

    monkeypatch.setattr(fcntl, "flock", starting_just_then)
    folder.held("gateway")
    assert refused == []


# -- facts ---------------------------------------------------------------------------------------------
def test_facts_are_told_only_while_their_service_runs(folder: DataFolder) -> None:
    with held_by_another_process(folder, "gateway"):
        assert folder.facts("gateway") == {"pid": 1, "url": "http://127.0.0.1:1"}
        assert folder.facts("agent") is None
    assert (folder.run / "gateway.json").is_file(), "the old note is still there"
    assert folder.facts("gateway") is None


def test_service_that_has_not_noted_anything_yet_has_no_facts(folder: DataFolder) -> None:
    with folder.hold("gateway"):
        assert folder.facts("gateway") is None
        (folder.run / "gateway.json").write_text('{"pid": ')
        assert folder.facts("gateway") is None


def test_folder_that_is_not_there_has_no_facts_and_is_not_made(tmp_path: Path) -> None:
    assert DataFolder(tmp_path / "nowhere").facts("gateway") is None
    assert list(tmp_path.iterdir()) == []


def test_facts_of_another_machine_are_none_here(folder: DataFolder) -> None:
    """Gateways of two machines may share a folder: the process id of one would name any process of the other."""
    with folder.hold("gateway"):
        folder.note("gateway", {"pid": 2})
        noted = json.loads((folder.run / "gateway.json").read_text())
        (folder.run / "gateway.json").write_text(json.dumps({**noted, "host": "elsewhere"}))
        assert folder.facts("gateway") is None


def test_waiting_for_a_lock_ends_with_its_holder(folder: DataFolder) -> None:
    with held_by_another_process(folder, "gateway") as process:
        process.kill()
        with folder.hold("gateway", wait=True):
            assert process.wait() != 0


def test_later_note_replaces_the_earlier_one_whole(folder: DataFolder) -> None:
    with folder.hold("gateway"):
        folder.note("gateway", {"pid": 1, "url": "x" * 10_000})
        folder.note("gateway", {"pid": 2})
        assert folder.facts("gateway") == {"pid": 2}
    assert [path.name for path in folder.run.iterdir() if path.suffix == ".tmp"] == []
    assert json.loads((folder.run / "gateway.json").read_text())["pid"] == 2


# -- secrets -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["operator.token", "worker.token", "link.key"])
def test_secret_is_made_once_and_only_its_owner_may_read_it(folder: DataFolder, name: str) -> None:
    umask = os.umask(0)
    try:
        secret = folder.secret(name)
    finally:
        os.umask(umask)
    assert len(secret) >= 43
    assert secret.startswith(name.split(".", 1)[0] + "_")
    assert folder.secret(name) == secret
    assert DataFolder(folder.root).secret(name) == secret
    assert (folder.root / name).stat().st_mode & 0o777 == 0o600


def test_secrets_differ_by_name_and_folder(folder: DataFolder, tmp_path: Path) -> None:
    other = DataFolder(tmp_path / "other")
    other.prepare()
    secrets = [f.secret(name) for f in (folder, other) for name in ("operator.token", "worker.token")]
    assert len(set(secrets)) == 4


def test_secret_that_an_operator_wrote_is_taken_without_its_newline(folder: DataFolder) -> None:
    (folder.root / "worker.token").write_text("chosen by hand\n")
    assert folder.secret("worker.token") == "chosen by hand"


def test_store_and_seat_have_stable_names(folder: DataFolder) -> None:
    again = DataFolder(folder.root)
    assert folder.store_id() == again.store_id() == (folder.blobs / "store.id").read_text()
    assert folder.seat() == again.seat()


def test_secret_that_could_not_be_written_is_not_an_empty_one(small_disk: Path) -> None:
    """An empty worker token lets everybody join as an agent (see test_auth), an empty link key signs for all."""
    folder = DataFolder(small_disk / "data")
    folder.prepare()
    filler = fill(small_disk)
    with pytest.raises(OSError, match="space"):
        folder.secret("worker.token")
    filler.unlink()
    assert folder.secret("worker.token") != ""
