"""What tests of several layers need: kinds of refusals, open descriptors, a disk that is filled."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from edif.core.errors import EdifError, ErrorCode


def refusal_of(call: Callable[[], object], *, error: type[EdifError] = EdifError) -> ErrorCode | None:
    """The kind of error with which ``call`` ends, None if it ends well; any other error passes through."""
    try:
        call()
    except error as refused:
        return refused.kind
    return None


def open_descriptors() -> dict[str, str]:
    """This process's descriptors and what they point to."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one by which the folder itself is read
            found[entry.name] = str(entry.readlink())
    return found


def fill(disk: Path) -> Path:
    """Fill the file system of this folder to the last block; returns the file to delete afterwards."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096) == 4096:
            pass
    return filler
