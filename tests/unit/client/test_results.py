"""Results from what travelled, whole and not."""

import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard

from edif.client import results
from edif.core import errors
from edif.core.errors import EdifError

LARGE = {"large": torch.arange(2**19, dtype=torch.float32), "text": "one"}
SMALL = {"small": torch.ones(3)}


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name])
        if isinstance(one[name], torch.Tensor)
        else one[name] == other[name]
        for name in one
    )


@pytest.fixture(params=["mapped", "copied"])
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """As on Linux, and as on systems without anonymous files."""
    if request.param == "copied":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    return str(request.param)


@pytest.mark.parametrize("value", [LARGE, SMALL], ids=["large", "small"])
@pytest.mark.parametrize("packed", [False, True])
def test_result_is_what_was_saved(memory: str, value: dict[str, Any], packed: bool) -> None:
    content = saved(value)
    loaded = results.load_pushed(zstandard.compress(content) if packed else content)
    assert same(loaded, value)
    first = next(each for each in loaded.values() if isinstance(each, torch.Tensor))
    first.mul_(2)
    assert first.sum() == 2 * next(iter(value.values())).sum()


def _open_files() -> set[str]:
    return {file.name for file in Path("/proc/self/fd").iterdir()}


def test_nothing_stays_open(memory: str) -> None:
    before = _open_files()
    kept = results.load_pushed(saved(LARGE))
    with pytest.raises(EdifError):
        results.load_pushed(zstandard.compress(saved(LARGE))[:-100])
    assert _open_files() == before
    assert same(kept, LARGE)


def _with_a_block_of_no_kind(frame: bytes) -> bytes:
    head = zstandard.frame_header_size(frame)
    return frame[:head] + b"\xff\xff\xff" + frame[head + 3 :]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (zstandard.compress(saved(LARGE))[:-100], "ends after"),
        (_with_a_block_of_no_kind(zstandard.compress(saved(LARGE))), "cannot be unpacked"),
        (zstandard.ZstdCompressor(write_content_size=False).compress(saved(SMALL)), "how large"),
        (zstandard.compress(b"")[:5], "how large"),
    ],
    ids=["cut", "altered", "unsized", "head only"],
)
def test_what_is_not_whole_is_told(content: bytes, words: str) -> None:
    with pytest.raises(EdifError, match=words) as caught:
        results.load_pushed(content)
    assert caught.value.kind is errors.RESULT_DAMAGED
