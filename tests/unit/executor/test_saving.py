"""Payloads in and results out, through real descriptors, read back as the client reads them."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
import zstandard
from hypothesis import HealthCheck, given, settings

from edif.core import errors
from edif.core.errors import ErrorCode, JobFailed
from edif.executor.saving import read_payload, write_result
from edif.walls.memory import memory_of, reset_peak
from tests.unit.helpers import open_descriptors, refusal_of

LIMIT = 2**20
BIG = 2**34
with_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def one_shot(content: bytes) -> bytes:
    """A frame that declares its size, as clients write it."""
    return zstandard.ZstdCompressor().compress(content)


def streamed(content: bytes) -> bytes:
    """A frame that declares nothing."""
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(content) + compressor.flush()


# -- read_payload --------------------------------------------------------------------------------------
ReadFrom = Callable[..., bytes]


@pytest.fixture
def read(tmp_path: Path) -> ReadFrom:
    """Reads these bytes as a payload, from a real file."""

    def read_bytes(data: bytes, *, compress: bool = True, limit: int = LIMIT) -> bytes:
        path = tmp_path / "payload"
        path.write_bytes(data)
        fd = os.open(path, os.O_RDONLY)
        try:
            return read_payload(fd, compress, limit)
        finally:
            os.close(fd)

    return read_bytes


def refusal(read: ReadFrom, data: bytes, **options: Any) -> ErrorCode:
    with pytest.raises(JobFailed) as failed:
        read(data, **options)
    return failed.value.kind


@with_fixture
@given(content=st.binary(max_size=2000))
def test_payload_is_read_as_it_was_sent(read: ReadFrom, content: bytes) -> None:
    assert read(content, compress=False) == content
    assert read(one_shot(content)) == content
    assert read(streamed(content)) == content


def test_payload_is_read_whole_wherever_the_descriptor_stands(tmp_path: Path) -> None:
    path = tmp_path / "payload"
    path.write_bytes(b"abcdef")
    with path.open("rb", buffering=0) as file:
        file.seek(4)
        assert read_payload(file.fileno(), False, LIMIT) == b"abcdef"
        assert read_payload(file.fileno(), False, LIMIT) == b"abcdef", "and may be read again"


@pytest.mark.parametrize("pack", [one_shot, streamed])
def test_payload_may_expand_to_the_limit_and_not_beyond(
    read: ReadFrom, pack: Callable[[bytes], bytes]
) -> None:
    assert read(pack(b"\0" * LIMIT)) == b"\0" * LIMIT
    assert refusal(read, pack(b"\0" * (LIMIT + 1))) is errors.PAYLOAD_BOMB


@pytest.mark.parametrize("pack", [one_shot, streamed])
def test_bomb_is_refused_without_being_expanded(read: ReadFrom, pack: Callable[[bytes], bytes]) -> None:
    bomb = pack(b"\0" * 300_000_000)
    assert len(bomb) < 100_000
    reset_peak()
    before = memory_of().own
    assert refusal(read, bomb) is errors.PAYLOAD_BOMB
    assert memory_of().most_own - before < 50_000_000


def test_size_that_is_declared_is_not_believed_blindly(read: ReadFrom) -> None:
    """A header that says little before a content that is much."""
    lying = bytearray(one_shot(b"\0" * 60_000))
    header = 4 + 1  # magic and descriptor; then the size, less 256, in two bytes
    assert int.from_bytes(lying[header : header + 2], "little") + 256 == 60_000
    lying[header : header + 2] = (300).to_bytes(2, "little")
    assert refusal(read, bytes(lying)) is errors.PAYLOAD_CORRUPT


@with_fixture
@given(content=st.binary(min_size=1, max_size=3000), part=st.floats(0, 1, exclude_max=True))
def test_frame_that_declares_its_size_and_is_cut_short_is_refused(
    read: ReadFrom, content: bytes, part: float
) -> None:
    frame = one_shot(content)
    assert refusal(read, frame[: int(len(frame) * part)]) is errors.PAYLOAD_CORRUPT


def test_frame_that_declares_nothing_and_is_cut_short_is_refused(read: ReadFrom) -> None:
    frame = streamed(os.urandom(500_000))
    assert refusal(read, frame[:400_000]) is errors.PAYLOAD_CORRUPT


@pytest.mark.parametrize("data", [b"", b"x", b"PK\x03\x04" + b"x" * 100, b"\x28\xb5\x2f\xfd", b"\0" * 100])
def test_what_is_no_frame_is_refused(read: ReadFrom, data: bytes) -> None:
    assert refusal(read, data) is errors.PAYLOAD_CORRUPT


@with_fixture
@given(data=st.binary(max_size=300), magic=st.booleans())
def test_any_bytes_are_a_frame_or_a_failed_job(read: ReadFrom, data: bytes, magic: bool) -> None:
    kind = refusal_of(lambda: read((b"\x28\xb5\x2f\xfd" if magic else b"") + data), error=JobFailed)
    assert kind in (None, errors.PAYLOAD_CORRUPT, errors.PAYLOAD_BOMB)


@with_fixture
@given(content=st.binary(min_size=20, max_size=2000), at=st.integers(0, 3000), bits=st.integers(1, 255))
def test_damaged_frame_is_content_or_a_failed_job(read: ReadFrom, content: bytes, at: int, bits: int) -> None:
    frame = bytearray(one_shot(content))
    frame[at % len(frame)] ^= bits
    kind = refusal_of(lambda: read(bytes(frame)), error=JobFailed)
    assert kind in (None, errors.PAYLOAD_CORRUPT, errors.PAYLOAD_BOMB)


# -- write_result --------------------------------------------------------------------------------------
WriteTo = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> WriteTo:
    """Writes these values as a result into a real file, and checks that nothing else is left of it."""

    def write_values(
        saved: dict[str, Any], *, compress: bool = True, limit: int = BIG, folder: Path = tmp_path
    ) -> Path:
        path = folder / "result"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        before = open_descriptors()
        try:
            write_result(saved, fd, compress, limit)
            os.fstat(fd)  # it stays open: it is the caller's
        finally:
            assert open_descriptors() == before, "a descriptor leaked"
            os.close(fd)
            assert [entry.name for entry in folder.iterdir()] == ["result"], "a file was left behind"
        return path

    return write_values


def as_the_client(path: Path, *, compressed: bool) -> Any:
    """What the stock client does with a result: one-shot decompression, which needs the size, and torch.load."""
    data = path.read_bytes()
    if compressed:
        data = zstandard.ZstdDecompressor().decompress(data)
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)


VALUES = {
    "hidden": torch.arange(12.0).reshape(3, 4),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "nothing": None,
    "text": "é\U0001f600",
    "nested": {"list": [1, 2.5, "x"], "tensor": torch.tensor([True, False])},
}


@pytest.mark.parametrize("compress", [True, False])
def test_client_reads_what_was_saved(write: WriteTo, compress: bool) -> None:
    values = as_the_client(write(VALUES, compress=compress), compressed=compress)
    assert list(values) == list(VALUES)
    assert torch.equal(values["hidden"], VALUES["hidden"])
    assert torch.equal(values["half"], VALUES["half"])
    assert torch.equal(values["nested"]["tensor"], VALUES["nested"]["tensor"])
    assert (values["nothing"], values["text"], values["nested"]["list"]) == (
        None,
        "é\U0001f600",
        [1, 2.5, "x"],
    )


@pytest.mark.parametrize("compress", [True, False])
def test_nothing_saved_is_an_empty_result(write: WriteTo, compress: bool) -> None:
    assert as_the_client(write({}, compress=compress), compressed=compress) == {}


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("megabytes", [7, 9, 40])
def test_large_result_arrives_whole(write: WriteTo, compress: bool, megabytes: int) -> None:
    """Beyond 8 MiB its compression is chosen by a sample."""
    tensor = torch.randint(0, 255, (megabytes, 2**20), dtype=torch.uint8)
    path = write({"t": tensor, "after": "x"}, compress=compress)
    values = as_the_client(path, compressed=compress)
    assert torch.equal(values["t"], tensor)
    assert values["after"] == "x"
    if compress:
        assert zstandard.frame_content_size(path.read_bytes()[:32]) > megabytes * 2**20


@pytest.mark.parametrize("compress", [True, False])
def test_limit_is_kept_to_the_byte(write: WriteTo, tmp_path: Path, compress: bool) -> None:
    saved = {"t": torch.zeros(10_000)}
    size = write(saved, compress=False).stat().st_size
    write(saved, compress=compress, limit=size)
    with pytest.raises(JobFailed) as failed:
        write(saved, compress=compress, limit=size - 1)
    assert failed.value.kind is errors.RESULT_TOO_LARGE


@pytest.mark.parametrize("compress", [True, False])
def test_result_far_over_the_limit_is_stopped_early(write: WriteTo, tmp_path: Path, compress: bool) -> None:
    with pytest.raises(JobFailed) as failed:
        write({"t": torch.zeros(200, 2**20, dtype=torch.uint8)}, compress=compress, limit=20 * 2**20)
    assert failed.value.kind is errors.RESULT_TOO_LARGE
    assert "200.0 MiB" in failed.value.sentence
    assert "20.0 MiB" in failed.value.sentence
    assert (tmp_path / "result").stat().st_size == 0


def test_slice_of_a_large_tensor_costs_what_is_sliced(write: WriteTo) -> None:
    """The next step of result_too_large says: slice them in the trace."""
    large = torch.zeros(1000, 1000)
    assert write({"row": large[0]}, compress=False).stat().st_size < 50_000


class Stubborn:
    """Raises what it was given whenever it is pickled."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> str:
        raise self.error


def _generator() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (lambda: None, "function"),
        (_generator(), "generator"),
        (sys.stderr, ""),
        ({"deep": [{"er": _generator()}]}, "dict"),
        (Stubborn(ValueError("no")), "Stubborn"),
        (Stubborn(RuntimeError("no")), "Stubborn"),
        (Stubborn(RecursionError("no")), "Stubborn"),
    ],
    ids=["lambda", "generator", "file", "nested", "ValueError", "RuntimeError", "RecursionError"],
)
def test_value_that_cannot_be_pickled_is_named(
    write: WriteTo, compress: bool, value: object, kind: str
) -> None:
    with pytest.raises(JobFailed) as failed:
        write({"fine": torch.zeros(3), "culprit": value, "later": 1}, compress=compress)
    assert failed.value.kind is errors.RESULT_UNPICKLABLE
    assert "'culprit'" in failed.value.sentence
    assert kind in failed.value.sentence


def test_value_nested_too_deeply_is_named(write: WriteTo) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(JobFailed) as failed:
        write({"deep": deep})
    assert failed.value.kind is errors.RESULT_UNPICKLABLE
    assert "'deep' (list)" in failed.value.sentence
    while deep:  # taken apart by hand: Python's own way down would need the stack
        deep = deep.pop()


# -- a full disk ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("compress", "megabytes"),
    [
        (True, 2),
        (True, 20),
        (False, 2),
        (False, 20),
    ],
)
def test_full_disk_fails_the_job_and_says_so(
    write: WriteTo, small_disk: Path, compress: bool, megabytes: int
) -> None:
    noise = torch.randint(0, 255, (megabytes, 2**20), dtype=torch.uint8)
    with pytest.raises(JobFailed) as failed:
        write({"t": noise}, compress=compress, folder=small_disk)
    assert failed.value.kind is errors.STORAGE_FULL


@pytest.mark.parametrize("values", [1_000, 4_000_000], ids=["small", "measured"])
def test_small_and_large_results_are_the_same_frame(write: WriteTo, values: int) -> None:
    saved = {"x": torch.arange(float(values))}
    assert torch.equal(as_the_client(write(saved), compressed=True)["x"], saved["x"])
