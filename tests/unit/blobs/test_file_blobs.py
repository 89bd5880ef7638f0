"""What is particular to blobs in a folder: the disk, crashes, files that are adopted."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edif.blobs.file_blobs import FileBlobs, sweep_half_written
from edif.blobs.store import payload_name, result_name
from edif.core import errors
from edif.core.errors import Refused
from tests.unit.blobs.factories import chunks_of, files_below
from tests.unit.helpers import fill

NAME = payload_name("j1")
LIMIT = 2**30


@pytest.fixture
def blobs(tmp_path: Path) -> FileBlobs:
    return FileBlobs(tmp_path)


# -- a full disk ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("chunk", [1_000, 60_000, 300_000], ids=lambda size: f"chunks-of-{size}")
async def test_full_disk_refuses_and_keeps_nothing(small_disk: Path, chunk: int) -> None:
    blobs = FileBlobs(small_disk / "blobs")
    with pytest.raises(Refused) as refused:
        await blobs.put(NAME, chunks_of(*[b"x" * chunk] * (3_000_000 // chunk)), limit_bytes=LIMIT)
    assert refused.value.kind is errors.STORAGE_FULL
    assert files_below(small_disk) == {}
    assert await blobs.put(NAME, chunks_of(b"x" * 500_000), limit_bytes=LIMIT) == 500_000


async def test_disk_that_is_full_to_the_last_byte_refuses_even_the_smallest(small_disk: Path) -> None:
    """The one byte is still in the writer's buffer when the disk turns out to be full."""
    blobs = FileBlobs(small_disk / "blobs")
    fill(small_disk)
    with pytest.raises(Refused) as refused:
        await blobs.put(NAME, chunks_of(b"x"), limit_bytes=LIMIT)
    assert refused.value.kind is errors.STORAGE_FULL
    assert list(files_below(small_disk)) == ["filler"]


async def test_free_bytes_is_what_is_left_on_its_disk(small_disk: Path) -> None:
    blobs = FileBlobs(small_disk / "blobs")
    before = blobs.free_bytes()
    assert before <= 2**20
    await blobs.put(NAME, chunks_of(b"x" * 400_000), limit_bytes=LIMIT)
    assert 400_000 <= before - blobs.free_bytes() <= 420_000


# -- crashes -------------------------------------------------------------------------------------------
WRITER = """
import asyncio, sys
from pathlib import Path
from edif.blobs.file_blobs import FileBlobs, sweep_half_written

async def chunks():
    for _ in range(4):
        yield b"x" * 100_000
    print("half", flush=True)
    await asyncio.Event().wait()

asyncio.run(FileBlobs(Path(sys.argv[1])).put("payload/j1", chunks(), limit_bytes=2**30))
"""


async def test_writer_that_is_killed_leaves_nothing_visible_and_its_rest_is_swept(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    blobs = FileBlobs(tmp_path)
    assert await blobs.size(NAME) is None
    assert len(files_below(tmp_path)) == 1, "the rest lies in tmp/"
    await blobs.put(NAME, chunks_of(b"again"), limit_bytes=LIMIT)
    await blobs.sweep_temporary(older_than_s=60)
    assert len(files_below(tmp_path)) == 2, "it might still be written to"
    await blobs.sweep_temporary(older_than_s=-60)
    assert files_below(tmp_path) == {NAME: 5}


async def test_writer_that_comes_again_deletes_what_it_left_half_written_and_nobody_elses(
    tmp_path: Path,
) -> None:
    before, other = FileBlobs(tmp_path, "gateway"), FileBlobs(tmp_path, "a1")
    for blobs in (before, other):
        blobs.temporary().write_bytes(b"half")
    (left,) = (tmp_path / "tmp").glob("a1-*")
    sweep_half_written(tmp_path, "gateway")
    assert files_below(tmp_path) == {f"tmp/{left.name}": 4}
    sweep_half_written(tmp_path / "nowhere", "a1")


# -- adopting ------------------------------------------------------------------------------------------
async def test_adopted_file_becomes_the_blob(blobs: FileBlobs, tmp_path: Path) -> None:
    temporary = blobs.temporary()
    temporary.write_bytes(b"result")
    blobs.adopt(temporary, result_name("j1", 1))
    assert await blobs.read(result_name("j1", 1)) == b"result"
    assert files_below(tmp_path) == {"result/j1-1": 6}


def test_file_is_not_adopted_under_a_bad_name(blobs: FileBlobs, tmp_path: Path) -> None:
    temporary = blobs.temporary()
    temporary.write_bytes(b"result")
    with pytest.raises(ValueError, match="not a blob name"):
        blobs.adopt(temporary, "result/../../x")
    assert files_below(tmp_path) == {f"tmp/{temporary.name}": 6}


def test_temporary_names_do_not_repeat(blobs: FileBlobs) -> None:
    assert len({blobs.temporary() for _ in range(100)}) == 100


def test_path_of_a_blob_lies_below_the_folder(blobs: FileBlobs, tmp_path: Path) -> None:
    assert blobs.path(NAME) == tmp_path / "payload" / "j1"


def test_folders_are_their_owners_alone(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path / "blobs")
    modes = {path.stat().st_mode & 0o777 for path in blobs.folder.iterdir()}
    assert modes == {0o700}


async def test_blob_is_synced_before_it_gets_its_name(
    blobs: FileBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of the system calls is what a power cut would show."""
    calls: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noting_fsync(fd: int) -> None:
        calls.append("sync folder" if Path(f"/proc/self/fd/{fd}").is_dir() else "sync file")
        fsync(fd)

    def noting_rename(path: Path, target: Path) -> Path:
        calls.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "rename", noting_rename)
    await blobs.put(NAME, chunks_of(b"abc"), limit_bytes=LIMIT)
    assert calls == ["sync file", "rename", "sync folder"]


async def test_many_puts_at_once(blobs: FileBlobs, tmp_path: Path) -> None:
    names = [payload_name(f"j{number}") for number in range(40)]
    await asyncio.gather(*(blobs.put(name, chunks_of(name.encode()), limit_bytes=LIMIT) for name in names))
    assert files_below(tmp_path) == {name: len(name) for name in names}
