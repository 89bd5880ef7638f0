"""The archive that is laid out without copying, against what ``torch.save`` would have made of the same values."""

import io
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from edif.executor.archive import PIECE_BYTES, Archive, lay_out
from edif.walls.memory import memory_of, reset_peak
from tests.sizes import SIZES

MIB = 2**20


def content(saved: dict[str, Any]) -> bytes:
    return content_of(lay_out(saved))


def content_of(archive: Archive) -> bytes:
    pieces = [bytes(piece.view) for piece in archive.pieces()]
    assert max(map(len, pieces)) <= PIECE_BYTES
    joined = b"".join(pieces)
    assert len(joined) == archive.size
    return joined


def loaded(saved: dict[str, Any]) -> Any:
    return loaded_from(lay_out(saved))


def loaded_from(archive: Archive) -> Any:
    return torch.load(io.BytesIO(content_of(archive)), weights_only=False)


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(
        tensor.detach()
        .resolve_conj()
        .resolve_neg()
        .clone(memory_format=torch.contiguous_format)
        .view(-1)
        .view(torch.uint8)
        .numpy()
    )


DTYPES = (
    torch.float32,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
)
slices = st.tuples(st.integers(0, 20), st.integers(1, 20), st.integers(1, 4)).map(
    lambda each: slice(each[0], each[0] + each[1], each[2])
)


@given(
    shape=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    dtype=st.sampled_from(DTYPES),
    parts=st.lists(slices, min_size=1, max_size=4),
    turned=st.booleans(),
    wide=st.booleans(),
)
def test_every_part_of_a_tensor_arrives_as_it_was(
    shape: list[int], dtype: torch.dtype, parts: list[slice], turned: bool, wide: bool
) -> None:
    """Small ones are copied, ``wide`` ones gathered."""
    if wide:
        shape = [*shape[:2], 40_000]
    base = torch.randint(0, 2, shape).to(dtype)
    part = base[tuple(parts[: len(shape)])]
    part = part.transpose(0, -1) if turned else part
    read = loaded({"part": part, "again": part[:]})
    assert read["part"].shape == part.shape
    assert read["part"].dtype == dtype
    assert bits(read["part"]) == bits(read["again"]) == bits(part)
    extra = len(content({"part": part})) - part.numel() * part.element_size()
    assert extra < 6000, "something else than the part was written"


@pytest.mark.parametrize("rows", [10, 10_000], ids=["small", "large"])
def test_equal_parts_and_equal_storages_are_written_once(rows: int) -> None:
    base = torch.randn(2 * rows, 100)
    once = len(content({"a": base[::2]}))
    assert len(content({"a": base[::2], "b": base[::2], "c": [base[::2]]})) < once + 1000
    whole = len(content({"base": base}))
    assert len(content({"part": base[::2], "base": base, "turned": base.t()})) < whole + 1000
    read = loaded({"part": base[::2], "base": base})
    assert read["part"].untyped_storage().data_ptr() == read["base"].untyped_storage().data_ptr()
    assert torch.equal(read["part"], base[::2])


class Holder:
    def __init__(self, value: torch.Tensor) -> None:
        self.value = value


def test_parts_within_objects_and_of_every_kind() -> None:
    base = torch.randn(300, 300)
    graded = (torch.randn(300, 300, requires_grad=True) * 2)[::2]
    values = {
        "object": Holder(base[:, 3]),
        "parameter": torch.nn.Parameter(base[2:9]),
        "graded": graded,
        "conjugate": torch.randn(200, 200, dtype=torch.complex64).conj()[:, ::2],
        "sparse": torch.eye(30).to_sparse(),
        "scalar": base[7, 7],
        "empty": base[:0],
        "meta": torch.empty(3, device="meta"),
    }
    read = loaded(values)
    assert torch.equal(read["object"].value, base[:, 3])
    assert isinstance(read["parameter"], torch.nn.Parameter)
    assert torch.equal(read["parameter"], values["parameter"])
    assert read["graded"].requires_grad
    assert torch.equal(read["graded"], graded)
    assert torch.equal(read["conjugate"], values["conjugate"])
    assert torch.equal(read["sparse"].to_dense(), torch.eye(30))
    assert read["scalar"] == base[7, 7]
    assert read["empty"].shape == (0, 300)
    assert read["meta"].shape == (3,)


def test_the_same_object_is_the_same_object() -> None:
    part = torch.randn(100, 100)[::2]
    read = loaded({"a": part, "b": [part]})
    assert read["a"] is read["b"][0]


def test_a_default_device_that_a_job_has_set_changes_nothing() -> None:
    base = torch.randn(300, 300)
    torch.set_default_device("meta")
    try:
        written = content({"part": base[::2]})
    finally:
        torch.set_default_device(None)
    assert torch.equal(torch.load(io.BytesIO(written), weights_only=False)["part"], base[::2])


class Moody:
    """Is pickled to something longer each time."""

    count = 0

    def __reduce__(self) -> tuple[type, tuple[bytes]]:
        Moody.count += 1
        return bytes, (b"x" * 100_000 * Moody.count,)


class Special(torch.Tensor):
    pass


def test_a_tensor_of_another_class_beside_a_part_of_it() -> None:
    base = torch.randn(300, 300)
    read = loaded({"part": base[::2], "special": base.as_subclass(Special), "base": base})
    assert type(read["special"]) is Special
    assert torch.equal(read["special"], base)
    assert torch.equal(read["part"], base[::2])
    read = loaded({"part": base[::2], "special": base.as_subclass(Special)})
    assert torch.equal(read["special"], base)


def test_a_value_is_pickled_once() -> None:
    assert len(loaded({"big": torch.zeros(4_000_000), "moody": Moody()})["moody"]) == 100_000
    assert Moody.count == 1


def test_checksums_of_others_are_left_as_they_were() -> None:
    assert torch.serialization.get_crc32_options()
    lay_out({"a": torch.zeros(3)})
    assert torch.serialization.get_crc32_options()


@pytest.mark.parametrize("shown", ["all", "half", "turned half"])
def test_memory_beside_the_tensor_is_small(shown: str) -> None:
    base = torch.ones(SIZES.large_result_mib, 2, MIB // 8)
    value = {"all": base, "half": base[:, 0], "turned half": base[:, 0].t()}[shown]
    reset_peak()
    before = memory_of().own
    archive = lay_out({"value": value})
    assert archive.size >= value.numel() * 4
    assert sum(len(piece.view) for piece in archive.pieces()) == archive.size
    samples = archive.samples(8, 1000)
    assert 7000 < sum(len(content) for content, _ in samples) <= 8000
    assert [width for _, width in samples][1:] == [4] * 7
    assert memory_of().most_own - before < 64 * MIB
