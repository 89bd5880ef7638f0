"""Values that stay on the fabric, in the executor: what is marked is written once, and opened again as it was."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nnsight.tracing import tracer as tracing

from edif.core import errors
from edif.core.errors import JobFailed
from edif.core.limits import MIB
from edif.executor.keeping import DTYPES, Keeping, Opened, keep
from edif.executor.saving import write_result
from edif.wire.kept import ALIGNMENT, Place, opening

LIMIT = 64 * MIB


@pytest.fixture
def keeping() -> Iterator[Keeping]:
    """What a job keeps, in a process that runs one."""
    tracing.inc()
    yield Keeping()
    Keeping.forget()
    tracing.dec()


def written(saved: dict[str, Any], keeping: Keeping, folder: Path, limit: int = LIMIT) -> dict[str, Any]:
    """The result as it is read without a connection; what is kept lies in the file ``kept`` of the folder."""

    def room() -> int:
        return os.open(folder / "kept", os.O_WRONLY | os.O_CREAT | os.O_EXCL)

    with (folder / "result").open("wb") as file:
        write_result(saved, file.fileno(), False, limit, keeping=keeping, room_for_kept=room)
    return dict(torch.load(io.BytesIO((folder / "result").read_bytes()), weights_only=False))


def opened(place: Place, folder: Path) -> torch.Tensor:
    fd = os.open(folder / "kept", os.O_RDONLY)
    try:
        return Opened({"j1": fd}).tensor(Place("j1", place.start, place.shape, place.dtype))
    finally:
        os.close(fd)


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_every_dtype_comes_back_bit_by_bit(name: str, keeping: Keeping, tmp_path: Path) -> None:
    noise = torch.randint(0, 2 if name == "bool" else 256, (5, 4, 16), dtype=torch.uint8)
    value = noise.view(DTYPES[name])
    place = written({"x": keep(value)}, keeping, tmp_path)["x"]
    assert (place.shape, place.dtype) == (tuple(value.shape), name)
    assert torch.equal(opened(place, tmp_path).view(torch.uint8), noise)


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(24.0).view(2, 3, 4).transpose(0, 2),
        torch.arange(24.0)[3:17:2],
        torch.arange(3.0).expand(4, 3),
        torch.tensor(5.0),
        torch.empty(3, 0, 2),
        torch.arange(6.0).requires_grad_(),
        torch.complex(torch.arange(3.0), torch.ones(3)).conj(),
        torch.arange(3 * MIB, dtype=torch.float32).view(3, -1).mT,
    ],
    ids=lambda value: f"{tuple(value.shape)}{tuple(value.stride())}",
)
def test_every_shape_comes_back(value: torch.Tensor, keeping: Keeping, tmp_path: Path) -> None:
    beside = torch.ones(3, dtype=torch.uint8)
    read = written({"beside": keep(beside), "x": keep(value)}, keeping, tmp_path)
    assert read["x"].start % ALIGNMENT == 0
    assert torch.equal(opened(read["x"], tmp_path), value)
    assert torch.equal(opened(read["beside"], tmp_path), beside)


def test_what_is_kept_does_not_travel_and_everything_else_does(keeping: Keeping, tmp_path: Path) -> None:
    large, other = torch.rand(MIB), torch.rand(4)
    saved = {"a": keep([large, {"b": other, "n": 3}]), "again": large, "plain": other.clone()}
    read = written(saved, keeping, tmp_path)
    assert isinstance(read["a"][0], Place)
    assert read["a"][0] == read["again"], "it is there once"
    assert read["a"][1]["n"] == 3
    assert torch.equal(read["plain"], other)
    assert (tmp_path / "result").stat().st_size < 5000
    assert (tmp_path / "kept").stat().st_size == keeping.size == large.nbytes + other.nbytes


def test_what_no_name_holds_any_more_is_not_kept(keeping: Keeping, tmp_path: Path) -> None:
    for _ in range(3):
        last = keep(torch.rand(MIB))
    written({"last": last}, keeping, tmp_path)
    assert (tmp_path / "kept").stat().st_size == last.nbytes


def test_without_anything_kept_no_file_is_asked_for(keeping: Keeping, tmp_path: Path) -> None:
    written({"x": torch.rand(4)}, keeping, tmp_path)
    assert not (tmp_path / "kept").exists()


def test_too_much_is_refused_before_it_is_written(keeping: Keeping, tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match=r"kept values have 2\.0 MiB; a job may keep 1\.0 MiB") as failed:
        written({"x": keep(torch.rand(MIB // 2))}, keeping, tmp_path, limit=MIB)
    assert failed.value.kind is errors.RESULT_TOO_LARGE
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    "value",
    [3, None, "x", [], {"a": 1}, torch.eye(2).to_sparse(), torch.nn.ReLU(), torch.empty(3, device="meta")],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_kept_is_told_where_it_is_said(value: Any, keeping: Keeping) -> None:
    with pytest.raises(TypeError, match=r"edif\.keep keeps"):
        keep(value)


def test_where_no_job_runs_it_is_a_plain_save() -> None:
    tracing.inc()
    try:
        value = torch.rand(3)
        assert keep(value) is value
        assert id(value) in tracing._saves()
    finally:
        tracing.dec()


def test_a_used_value_is_a_copy_that_the_job_may_change(keeping: Keeping, tmp_path: Path) -> None:
    value = torch.rand(1000)
    place = written({"x": keep(value)}, keeping, tmp_path)["x"]
    first = opened(place, tmp_path)
    first.mul_(0)
    assert torch.equal(opened(place, tmp_path), value)


@pytest.mark.parametrize(
    "place",
    [
        Place("j2", 0, (1,), "float32"),
        Place("", 0, (1,), "float32"),
        Place("j1", 0, (1025,), "float32"),
        Place("j1", 4096, (1,), "uint8"),
        Place("j1", 1, (1,), "uint8"),
        Place("j1", -64, (1,), "uint8"),
        Place("j1", 0, (-1,), "uint8"),
        Place("j1", 0, (2**62, 2**62), "uint8"),
        Place("j1", 0, (1,), "quint8"),
        Place("j1", "0", (1,), "uint8"),  # type: ignore[arg-type]
        Place("j1", 0, (1.0,), "uint8"),  # type: ignore[arg-type]
        Place("j1", True, (1,), "uint8"),
    ],
    ids=str,
)
def test_places_that_are_not_there_are_refused(place: Place, tmp_path: Path) -> None:
    """A client may write anything into a payload; a job reaches only what it was sent with."""
    (tmp_path / "kept").write_bytes(bytes(4096))
    fd = os.open(tmp_path / "kept", os.O_RDONLY)
    try:
        with pytest.raises(JobFailed) as failed:
            Opened({"j1": fd}).tensor(place)
    finally:
        os.close(fd)
    assert failed.value.kind is errors.PAYLOAD_UNREADABLE


def test_a_place_is_unpickled_as_its_reader_says() -> None:
    import pickle

    place = Place("j1", 64, (2, 3), "float32")
    data = pickle.dumps(place)
    assert pickle.loads(data) == place
    with opening(lambda found: ("opened", found)):
        assert pickle.loads(data) == ("opened", place)
    assert pickle.loads(data) == place


def test_a_used_value_takes_its_own_size_and_not_the_whole_blobs(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"")
    os.truncate(tmp_path / "kept", 64 * MIB)
    fd = os.open(tmp_path / "kept", os.O_RDONLY)
    try:
        before = int(Path("/proc/self/statm").read_text().split()[0])
        held = [Opened({"j1": fd}).tensor(Place("j1", 32 * MIB + 64, (16,), "float32")) for _ in range(64)]
        after = int(Path("/proc/self/statm").read_text().split()[0])
        assert len(held) == 64
        assert (after - before) * 4096 < 64 * MIB
    finally:
        os.close(fd)


def test_an_empty_tensor_can_be_kept_and_used(keeping: Keeping, tmp_path: Path) -> None:
    place = written({"x": keep(torch.empty(0, 3))}, keeping, tmp_path)["x"]
    assert (tmp_path / "kept").stat().st_size == 0
    assert opened(place, tmp_path).shape == (0, 3)


def test_a_full_disk_is_told_for_what_is_kept(keeping: Keeping, tmp_path: Path) -> None:
    with (
        (tmp_path / "result").open("wb") as file,
        pytest.raises(JobFailed, match="the kept values could") as failed,
    ):
        write_result(
            {"x": keep(torch.rand(MIB))},
            file.fileno(),
            False,
            LIMIT,
            keeping=keeping,
            room_for_kept=lambda: os.open("/dev/full", os.O_WRONLY),
        )
    assert failed.value.kind is errors.STORAGE_FULL
