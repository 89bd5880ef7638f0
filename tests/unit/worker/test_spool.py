"""A result's file that is read while it grows."""

import hashlib
import os
import threading
from pathlib import Path

import pytest

from edif.worker.spool import SpoolFile

MIB = 2**20


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("spool-")]


@pytest.mark.parametrize("pieces", [[], [b""], [b"x"], [os.urandom(3 * MIB), b"", os.urandom(5 * MIB + 1)]])
@pytest.mark.parametrize("follow_after", [0, 1, None])
def test_checksum_and_size_are_those_of_the_whole_file(
    tmp_path: Path, pieces: list[bytes], follow_after: int | None
) -> None:
    spooled = SpoolFile(tmp_path / "result")
    with spooled.path.open("wb", buffering=0) as file:
        for number, piece in enumerate(pieces):
            if number == follow_after:
                spooled.follow()
                spooled.follow()
            file.write(piece)
    committed = spooled.finish()
    content = b"".join(pieces)
    assert (committed.size, committed.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert threads() == []


def test_what_is_read_along_is_not_read_again_at_the_end(tmp_path: Path) -> None:
    spooled = SpoolFile(tmp_path / "result")
    spooled.path.write_bytes(b"a" * 3 * MIB)
    spooled.follow()
    while spooled._reading._digested < 3 * MIB:
        spooled._reading.over.wait(0.001)
    with spooled.path.open("r+b") as file:
        file.write(b"b")
    assert spooled.finish().sha256 == hashlib.sha256(b"a" * 3 * MIB).hexdigest()


def test_one_that_is_discarded_while_it_is_followed_leaves_nothing(tmp_path: Path) -> None:
    spooled = SpoolFile(tmp_path / "result")
    spooled.path.write_bytes(b"a")
    spooled.follow()
    spooled.discard()
    for thread in spooled._reading._followers:
        thread.join(60)
    assert threads() == []
    assert list(tmp_path.iterdir()) == []
