"""A data folder in one file: whole, private, and refused when it is not what was written."""

import asyncio
import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
import zstandard

from edif.blobs.file_blobs import FileBlobs
from edif.blobs.store import kept_name, payload_name, result_name
from edif.core import errors
from edif.core.errors import SetupError
from edif.core.ids import JobId
from edif.core.job import AttemptOutcome, Extras, JobState
from edif.launch.backup import restore, take
from edif.launch.data_folder import DataFolder
from edif.records.migrate import open_store
from edif.records.sqlite import DATABASE_NAME, open_engine
from edif.records.sqlite_copy import copy_store
from tests.sizes import SIZES
from tests.unit.records.factories import a_job, an_attempt, an_ending
from tests.unit.records.released import REVISIONS, fill


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    """A folder with a job that waits, one that completed, and one that failed."""
    made = DataFolder(tmp_path / "data")
    made.prepare()
    made.secret("operator.token")
    made.store_id()
    made.seat()
    blobs = FileBlobs(made.blobs)

    async def fill() -> None:
        store = await open_store(made.root)
        for name, state in (("j-waits", None), ("j-done", JobState.COMPLETED), ("j-failed", JobState.FAILED)):
            job = a_job(id=name)
            await store.add_job(job)
            blobs.path(payload_name(name)).write_bytes(b"payload of " + name.encode())
            if state is not None:
                await store.begin_attempt(an_attempt(job.id))
                outcome = AttemptOutcome(state.value)
                await store.end_job(job.id, an_ending(state), now=1.0, attempt=1, outcome=outcome)
        blobs.path(result_name("j-done", 1)).write_bytes(b"result" * 1000)
        await store.close()

    asyncio.run(fill())
    return made


def jobs_in(root: Path) -> dict[str, JobState]:
    async def read() -> dict[str, JobState]:
        store = await open_store(root)
        found = {job.id: job.state for job in await store.jobs(limit=1_000_000)}
        await store.close()
        return found  # type: ignore[return-value]

    return asyncio.run(read())


def names_in(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_what_was_taken_is_restored(folder: DataFolder, tmp_path: Path) -> None:
    contents = take(folder, tmp_path / "b.tar.zst", results=True)
    assert (contents.jobs, contents.blobs) == (3, 3), (
        "the payload that is needed, the result, the store's name"
    )
    again = DataFolder(tmp_path / "deep" / "again")
    assert restore(tmp_path / "b.tar.zst", again).jobs == 3
    assert jobs_in(again.root) == jobs_in(folder.root)
    for name in (
        "operator.token",
        "blobs/store.id",
        "run/agent.id",
        "blobs/payload/j-waits",
        "blobs/result/j-done-1",
    ):
        assert (again.root / name).read_bytes() == (folder.root / name).read_bytes(), name
    assert not (again.root / "blobs/payload/j-done").exists()


def test_backups_and_what_comes_of_them_are_the_owners_alone(folder: DataFolder, tmp_path: Path) -> None:
    take(folder, tmp_path / "b.tar.zst", results=True)
    assert (tmp_path / "b.tar.zst").stat().st_mode & 0o777 == 0o600
    restore(tmp_path / "b.tar.zst", DataFolder(tmp_path / "again"))
    for path in (tmp_path / "again", *(tmp_path / "again").rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_results_can_be_left_out(folder: DataFolder, tmp_path: Path) -> None:
    take(folder, tmp_path / "b.tar.zst", results=False)
    restore(tmp_path / "b.tar.zst", DataFolder(tmp_path / "again"))
    names = names_in(tmp_path / "again")
    assert "blobs/payload/j-waits" in names
    assert "blobs/result/j-done-1" not in names


@pytest.mark.parametrize("results", [True, False])
def test_kept_values_go_with_results_and_with_jobs_that_need_them(
    folder: DataFolder, tmp_path: Path, results: bool
) -> None:
    async def fill() -> None:
        store = await open_store(folder.root)
        for name in ("j-used", "j-unused"):
            await store.add_job(a_job(id=name))
            await store.begin_attempt(an_attempt(JobId(name)))
            ending = an_ending(JobState.COMPLETED, kept_bytes=1)
            await store.end_job(JobId(name), ending, now=1.0, attempt=1, outcome=AttemptOutcome.COMPLETED)
            FileBlobs(folder.blobs).path(kept_name(name, 1)).write_bytes(b"k")
        await store.add_job(a_job(id="j-uses", extras=Extras(uses=("j-used",))))
        await store.close()

    asyncio.run(fill())
    take(folder, tmp_path / "b.tar.zst", results=results)
    restore(tmp_path / "b.tar.zst", DataFolder(tmp_path / "again"))
    kept = {name for name in names_in(tmp_path / "again") if name.startswith("blobs/kept/")}
    assert kept == {"blobs/kept/j-used-1", *(["blobs/kept/j-unused-1"] if results else [])}


def test_a_blob_that_goes_meanwhile_is_not_missed(folder: DataFolder, tmp_path: Path) -> None:
    (folder.blobs / "result/j-done-1").unlink()
    take(folder, tmp_path / "b.tar.zst", results=True)
    assert restore(tmp_path / "b.tar.zst", DataFolder(tmp_path / "again")).blobs == 2


@pytest.mark.parametrize(("revoked", "lies"), [(0, 0), (0, 1), (0, 3), (2, 1), (2, 2), (2, 4)])
def test_a_result_is_in_it_under_the_name_that_its_records_know(
    folder: DataFolder, tmp_path: Path, revoked: int, lies: int
) -> None:
    """Links to it may have been revoked since its records were copied, or a gateway have died in that."""

    async def revoke() -> None:
        store = await open_store(folder.root)
        for _ in range(revoked):
            job = await store.job(JobId("j-done"))
            assert job is not None
            assert await store.revoke_links(job)
        await store.close()

    asyncio.run(revoke())
    (folder.blobs / "result/j-done-1").rename(folder.blobs / result_name("j-done", 1, lies))
    take(folder, tmp_path / "b.tar.zst", results=True)
    restore(tmp_path / "b.tar.zst", DataFolder(tmp_path / "again"))
    results = {name for name in names_in(tmp_path / "again") if name.startswith("blobs/result")}
    assert results == {f"blobs/{result_name('j-done', 1, revoked)}"}


def test_a_job_that_ends_while_it_is_copied_is_restored_with_its_payload(
    folder: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its records are copied, and then it ends, before any payload is read."""

    def copied_and_then_it_ends(*arguments: Path, **more: Callable[[], None]) -> None:
        copy_store(*arguments, **more)
        end_and_tidy(folder, "j-waits")

    monkeypatch.setattr("edif.launch.backup.copy_store", copied_and_then_it_ends)
    take(folder, tmp_path / "b.tar.zst", results=True)
    assert not (folder.blobs / "payload/j-waits").exists()
    restore(tmp_path / "b.tar.zst", DataFolder(tmp_path / "again"))
    assert jobs_in(tmp_path / "again")["j-waits"] is JobState.QUEUED
    assert (tmp_path / "again/blobs/payload/j-waits").read_bytes() == b"payload of j-waits"


def end_and_tidy(folder: DataFolder, name: str) -> None:
    """As the gateway ends a job: first on record, then its payload goes."""

    async def end() -> None:
        store = await open_store(folder.root)
        ending = an_ending(JobState.CANCELLED)
        assert await store.end_job(JobId(name), ending, now=2.0, attempt=None, outcome=None)
        await store.close()
        await FileBlobs(folder.blobs).delete(payload_name(name))

    asyncio.run(end())


def test_backups_while_jobs_come_and_go_have_the_payload_of_each_unfinished_job(
    folder: DataFolder, tmp_path: Path
) -> None:
    stop = Event()

    async def come_and_go() -> None:
        store, blobs = await open_store(folder.root), FileBlobs(folder.blobs)
        while not stop.is_set():
            some = [a_job() for _ in range(5)]
            for job in some:
                blobs.path(payload_name(job.id)).write_bytes(b"x")
                await store.add_job(job)
            for job in some:
                await store.end_job(
                    job.id, an_ending(JobState.CANCELLED), now=2.0, attempt=None, outcome=None
                )
                await blobs.delete(payload_name(job.id))
        await store.close()

    with ThreadPoolExecutor(1) as other:
        busy = other.submit(asyncio.run, come_and_go())
        try:
            for number in range(SIZES.races):
                take(folder, tmp_path / f"b{number}", results=True)
        finally:
            stop.set()
        busy.result()
    for number in range(SIZES.races):
        again = tmp_path / f"again{number}"
        restore(tmp_path / f"b{number}", DataFolder(again))
        waiting = {name for name, state in jobs_in(again).items() if not state.final}
        assert {path.name for path in (again / "blobs/payload").iterdir()} == waiting


def test_what_a_killed_backup_left_goes_with_the_next_and_nothing_else(
    folder: DataFolder, tmp_path: Path
) -> None:
    """Killed when everything is written and nothing is in its place."""
    program = (
        "import os, pathlib, signal, sys\n"
        "from edif.launch import backup\n"
        "from edif.launch.data_folder import DataFolder\n"
        "backup.os.link = lambda source, target, link=os.link: (\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if target.name == 'b.tar.zst' else link(source, target)\n"
        ")\n"
        "backup.take(DataFolder(pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[2]), results=True)\n"
    )
    other = tmp_path / "elsewhere"
    other.mkdir()
    words = [sys.executable, "-c", program, str(folder.root), str(other / "b.tar.zst")]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    assert list(other.iterdir())
    assert list(folder.blobs.glob("backup-*"))
    (other / ".b.tar.zst.mine").mkdir()
    take(folder, tmp_path / "c.tar.zst", results=True)
    assert [path.name for path in other.iterdir()] == [".b.tar.zst.mine"]
    assert not list(folder.blobs.glob("backup-*"))
    assert {path.name for path in tmp_path.iterdir()} == {"data", "c.tar.zst", "elsewhere"}


def test_a_backup_never_takes_the_place_of_a_file(folder: DataFolder, tmp_path: Path) -> None:
    (tmp_path / "b.tar.zst").write_text("mine")
    with pytest.raises(SetupError) as refused:
        take(folder, tmp_path / "b.tar.zst", results=True)
    assert refused.value.kind is errors.BACKUP_IMPOSSIBLE
    assert (tmp_path / "b.tar.zst").read_text() == "mine"


@pytest.mark.parametrize("target", ["nowhere/b.tar.zst", "data/records.sqlite/b"])
def test_a_place_that_cannot_be_written_is_refused(folder: DataFolder, tmp_path: Path, target: str) -> None:
    before = names_in(tmp_path)
    with pytest.raises(SetupError):
        take(folder, tmp_path / target, results=True)
    assert names_in(tmp_path) - {"data/run/backup.lock", "data/run/backup.json"} == before


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as refused:
        take(DataFolder(tmp_path / "none"), tmp_path / "b.tar.zst", results=True)
    assert "pg_dump" in refused.value.next_step
    assert not (tmp_path / "none").exists()


def test_a_folder_on_which_no_gateway_ever_ran_is_taken(tmp_path: Path) -> None:
    asyncio.run(open_and_close(tmp_path / "data"))
    take(DataFolder(tmp_path / "data"), tmp_path / "b.tar.zst", results=True)
    assert restore(tmp_path / "b.tar.zst", DataFolder(tmp_path / "again")).jobs == 0


async def open_and_close(root: Path) -> None:
    await (await open_store(root)).close()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no file") as refused:
        restore(tmp_path / "none.tar.zst", DataFolder(tmp_path / "again"))
    assert "edif backup" in refused.value.next_step
    assert not (tmp_path / "again").exists()


def test_only_an_empty_folder_is_filled(folder: DataFolder, tmp_path: Path) -> None:
    take(folder, tmp_path / "b.tar.zst", results=True)
    before = jobs_in(folder.root)
    with pytest.raises(SetupError, match="not an empty folder"):
        restore(tmp_path / "b.tar.zst", folder)
    assert jobs_in(folder.root) == before
    (tmp_path / "empty").mkdir()
    restore(tmp_path / "b.tar.zst", DataFolder(tmp_path / "empty"))


def archive(path: Path, members: dict[str, bytes], *, kind: bytes = tarfile.REGTYPE) -> None:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(body), kind, "/etc/passwd"
            tar.addfile(info, io.BytesIO(body))
    path.write_bytes(zstandard.compress(plain.getvalue()))


def manifest(**changes: object) -> bytes:
    return json.dumps({"format": 1, "jobs": 0, "sha256": {}, **changes}).encode()


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_backup_that_an_earlier_release_made_is_restored_to_this_ones_schema(
    revision: str, tmp_path: Path
) -> None:
    engine = open_engine(tmp_path / DATABASE_NAME, writing=True)
    with engine.begin() as connection:
        fill(connection, revision)
    engine.dispose()
    members = {
        DATABASE_NAME: (tmp_path / DATABASE_NAME).read_bytes(),
        "operator.token": b"secret",
        "blobs/payload/j0": b"payload",
        "blobs/result/j2-2": b"result",
    }
    digests = {name: hashlib.sha256(body).hexdigest() for name, body in members.items()}
    archive(tmp_path / "old.tar.zst", {**members, "manifest.json": manifest(jobs=3, sha256=digests)})
    again, once_more = DataFolder(tmp_path / "again"), DataFolder(tmp_path / "once-more")
    assert restore(tmp_path / "old.tar.zst", again).jobs == 3
    jobs = {"j0": JobState.QUEUED, "j1": JobState.RUNNING, "j2": JobState.COMPLETED}
    assert jobs_in(again.root) == jobs
    take(again, tmp_path / "new.tar.zst", results=True)
    restore(tmp_path / "new.tar.zst", once_more)
    assert jobs_in(once_more.root) == jobs
    for name in set(members) - {DATABASE_NAME}:
        assert (once_more.root / name).read_bytes() == members[name], name


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"manifest.json": b"{}"},
        {"manifest.json": b"no json"},
        {"manifest.json": manifest(format=2)},
        {"manifest.json": manifest()},
        {"manifest.json": b"[]"},
        {"manifest.json": b"[" * 100_000},
        {"manifest.json": manifest(jobs="many")},
        {"manifest.json": manifest(sha256=["records.sqlite"])},
        {"manifest.json": manifest(sha256={"records.sqlite": "0" * 64})},
        {"../outside": b"x", "manifest.json": manifest()},
        {"/tmp/edif-outside": b"x", "manifest.json": manifest()},
    ],
    ids=[
        "empty",
        "no format",
        "no json",
        "newer",
        "no records",
        "list",
        "deep",
        "no number",
        "no digests",
        "not as written",
        "up and out",
        "absolute",
    ],
)
def test_what_is_no_whole_backup_is_refused_and_leaves_nothing(
    tmp_path: Path, members: dict[str, bytes]
) -> None:
    source = tmp_path / "b.tar.zst"
    archive(source, members)
    with pytest.raises(SetupError) as refused:
        restore(source, DataFolder(tmp_path / "again"))
    assert refused.value.kind is errors.RESTORE_IMPOSSIBLE
    assert names_in(tmp_path) == {"b.tar.zst"}
    assert not Path("/tmp/edif-outside").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    archive(tmp_path / "b.tar.zst", {"records.sqlite": b""}, kind=kind)
    with pytest.raises(SetupError):
        restore(tmp_path / "b.tar.zst", DataFolder(tmp_path / "again"))
    assert names_in(tmp_path) == {"b.tar.zst"}


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_a_file_that_broke_off_is_refused(folder: DataFolder, tmp_path: Path, part: float) -> None:
    take(folder, tmp_path / "b.tar.zst", results=True)
    whole = (tmp_path / "b.tar.zst").read_bytes()
    (tmp_path / "half").write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(SetupError):
        restore(tmp_path / "half", DataFolder(tmp_path / "again"))
    assert not (tmp_path / "again").exists()


def test_what_is_no_store_is_not_taken(folder: DataFolder, tmp_path: Path) -> None:
    (folder.root / "records.sqlite").write_bytes(b"something else" * 1000)
    with pytest.raises(SetupError) as refused:
        take(folder, tmp_path / "b.tar.zst", results=True)
    assert refused.value.kind is errors.BACKUP_IMPOSSIBLE
    assert not list(tmp_path.glob("*b.tar*"))


def test_a_disk_that_fills_up_leaves_nothing_behind(folder: DataFolder, tmp_path: Path) -> None:
    """The store's copy is the first thing that does not fit. Real writes, refused by the kernel's limit for files."""
    program = (
        "import pathlib, resource, signal, sys\n"
        "from edif.core.errors import SetupError\n"
        "from edif.launch.backup import take\n"
        "from edif.launch.data_folder import DataFolder\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))\n"
        "try:\n"
        "    take(DataFolder(pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[2]), results=True)\n"
        "except SetupError as error:\n"
        "    print(error.kind.code)\n"
    )
    for limit in (1000, 20_000):
        words = [sys.executable, "-c", program, str(folder.root), str(tmp_path / "b.tar.zst"), str(limit)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.stdout == "backup_impossible\n", done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_a_file_is_no_folder_to_restore_into(folder: DataFolder, tmp_path: Path) -> None:
    take(folder, tmp_path / "b.tar.zst", results=True)
    for place in (tmp_path / "b.tar.zst", tmp_path / "b.tar.zst" / "below", Path("/proc/edif/data")):
        with pytest.raises(SetupError) as refused:
            restore(tmp_path / "b.tar.zst", DataFolder(place))
        assert refused.value.kind is errors.RESTORE_IMPOSSIBLE
