"""Results from what travelled, whole and not."""

import io
import os
import threading
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard

from edif.client import results
from edif.client.memory import Memory
from edif.client.pieces import Pieces
from edif.client.unpacking import unpack
from edif.core import errors
from edif.core.errors import EdifError
from edif.walls.memory import memory_of, reset_peak
from edif.wire import packed as packed_form
from fuzz.packed_results import pack
from tests.sizes import SIZES

MIB = 2**20

LARGE = {"large": torch.arange(2**19, dtype=torch.float32), "text": "one"}
SMALL = {"small": torch.ones(3)}


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def packed(content: bytes) -> bytes:
    return pack(content, 4, 2**18)


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
@pytest.mark.parametrize("form", [bytes, zstandard.compress, packed], ids=["bare", "frame", "packed"])
def test_result_is_what_was_saved(memory: str, value: dict[str, Any], form: Callable[[bytes], bytes]) -> None:
    loaded = results.load_pushed(form(saved(value)))
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
    with pytest.raises(EdifError):
        results.load_pushed(packed(saved(LARGE))[:-100])
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
        (packed(saved(LARGE))[:-100], "ends after"),
        (packed(saved(LARGE)) + b"x", "something follows"),
        (packed(saved(LARGE)).replace(b"\x28\xb5\x2f\xfd", bytes(4)), "cannot be unpacked"),
        (packed(b"")[:10], "no head"),
        (packed(b"")[:9] + b"\xff" * 8, "hold 0 at most"),
    ],
    ids=[
        "cut",
        "altered",
        "unsized",
        "head only",
        "packed, cut",
        "packed, longer",
        "packed, altered",
        "packed, head cut",
        "packed, endless",
    ],
)
def test_what_is_not_whole_is_told(content: bytes, words: str) -> None:
    with pytest.raises(EdifError, match=words) as caught:
        results.load_pushed(content)
    assert caught.value.kind is errors.RESULT_DAMAGED


def test_unpacking_takes_little_memory_beside_the_result() -> None:
    values = np.random.default_rng(0).standard_normal((4, MIB // 4)).astype(np.float32)
    written = pack(values.tobytes(), 4, MIB)[packed_form.HEAD_BYTES :]
    rounds = SIZES.large_result_mib // 4
    memory = Memory(rounds * values.nbytes)
    memory.view[:] = bytes(values.nbytes) * rounds  # it is there before
    pieces = (memoryview(bytearray(written)) for _ in range(rounds))
    first = memoryview(packed_form.head(rounds * values.nbytes))
    reset_peak()
    before = memory_of().own
    unpack(Pieces(chain([first], pieces)), memory.view)
    assert memory_of().most_own - before < 64 * MIB
    assert memory.view[-values.nbytes :] == values.tobytes()
    memory.close()


def test_what_is_malformed_far_behind_is_told_and_ends_the_threads() -> None:
    content = bytearray(packed(bytes(20 * MIB)))
    content[-1] ^= 0xFF
    threads = threading.active_count()
    with pytest.raises(EdifError, match="cannot be unpacked"):
        results.load_pushed(bytes(content))
    assert threading.active_count() == threads
