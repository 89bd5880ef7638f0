"""Tensors that travel as narrower floats: what is read has the dtype, the shape and the sharing of what was saved, and rounded values."""

import mmap
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from edif.executor.archive import lay_out
from edif.walls.memory import memory_of, reset_peak
from tests.sizes import SIZES
from tests.unit.executor.test_archive import MIB, Holder, loaded_from

BF16 = torch.bfloat16
TARGETS = (torch.bfloat16, torch.float16, torch.float32)
WIDE = (torch.float32, torch.float64)


class Special(torch.Tensor):
    pass


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE


def rounded(saved: dict[str, Any], target: torch.dtype = BF16) -> Any:
    archive = lay_out(saved, target)
    return loaded_from(archive)


def size(saved: dict[str, Any], target: torch.dtype | None = BF16) -> int:
    return lay_out(saved, target).size


@given(
    shape=st.lists(st.integers(0, 30), max_size=3),
    dtype=st.sampled_from((*WIDE, torch.float16, torch.bfloat16)),
    target=st.sampled_from(TARGETS),
    step=st.integers(1, 3),
    turned=st.booleans(),
    large=st.booleans(),
)
def test_values_are_rounded_once_and_keep_their_dtype(
    shape: list[int], dtype: torch.dtype, target: torch.dtype, step: int, turned: bool, large: bool
) -> None:
    shape = [*shape[:1], 50_000] if large else shape
    value = torch.randn(shape, dtype=torch.float64).to(dtype)
    value = value[::step] if shape else value
    value = value.transpose(0, -1) if turned and shape else value
    expected = value.to(target).to(dtype) if dtype.itemsize > target.itemsize else value
    read = rounded({"value": value, "again": value[:] if shape else value}, target)
    assert read["value"].dtype == dtype
    assert torch.equal(read["value"], expected)
    assert torch.equal(read["again"], expected)


def test_what_is_not_a_wider_float_stays_as_it_is() -> None:
    values = {
        "ints": torch.arange(100_000),
        "bools": torch.ones(100_000, dtype=torch.bool),
        "complex": torch.randn(50_000, dtype=torch.complex64),
        "half": torch.randn(50_000).half(),
        "bfloat": torch.randn(50_000).to(BF16),
        "double": torch.randn(0, dtype=torch.float64),
        "number": 0.1,
        "array": np.random.default_rng(0).standard_normal(50_000),
        "small array": np.random.default_rng(0).standard_normal(5),
    }
    archive = lay_out(values, BF16)
    read = loaded_from(archive)
    assert archive.rounded == 0
    for name, value in values.items():
        assert type(read[name]) is type(value)
        assert (
            np.array_equal(np.asarray(read[name]), np.asarray(value))
            if name != "bfloat"
            else torch.equal(read[name], value)
        )


def test_it_is_counted() -> None:
    values = {
        "a": torch.randn(5),
        "b": [torch.randn(50_000)[::2], torch.arange(4)],
        "c": torch.randn(3).half(),
    }
    assert lay_out(values).rounded == 0
    assert lay_out(values, BF16).rounded == 2
    assert lay_out(values, torch.float32).rounded == 0


@pytest.mark.parametrize("rows", [10, 10_000], ids=["small", "large"])
def test_what_shared_memory_shares_it(rows: int) -> None:
    base = torch.randn(2 * rows, 100)
    half = base.numel() * 2
    assert size({"base": base}) < half + 3000
    assert size({"part": base[::2]}) < half // 2 + 3000
    assert size({"base": base, "turned": base.t(), "part": base[::2], "row": base[3]}) < half + 3000
    read = rounded({"part": base[::2], "base": base, "turned": base.t(), "list": [base]})
    assert read["list"][0] is read["base"]
    read["base"][2, 5] = 7
    assert read["turned"][5, 2] == read["part"][1, 5] == 7
    read = rounded({"a": base[::2], "b": base[::2], "c": base[1::2]})
    read["a"][1, 5] = 7
    assert read["b"][1, 5] == 7
    assert torch.equal(read["c"], base[1::2].to(BF16).float())


def test_of_every_kind() -> None:
    base = torch.randn(300, 300)
    numbers = torch.randn(300, 300, dtype=torch.complex64)
    graded = torch.randn(300, 300, requires_grad=True) * 2
    values = {
        "object": Holder(base[:, 3]),
        "parameter": torch.nn.Parameter(base[2:9]),
        "graded": graded,
        "graded part": graded[::2],
        "negative": torch._neg_view(base),
        "negative part": numbers.conj().imag,
        "real": numbers.real,
        "complex": numbers,
        "as ints": base.view(torch.int32),
        "sparse": torch.eye(30).to_sparse() * 0.1,
        "scalar": base[7, 7],
        "empty": base[:0],
        "meta": torch.empty(3, device="meta"),
    }
    read = rounded(values)
    assert torch.equal(read["object"].value, base[:, 3].to(BF16).float())
    assert type(read["parameter"]) is torch.nn.Parameter
    for name in (
        "parameter",
        "graded",
        "graded part",
        "negative",
        "negative part",
        "real",
        "scalar",
        "empty",
    ):
        assert read[name].dtype == torch.float32
        assert read[name].requires_grad == values[name].requires_grad, name
        assert torch.equal(read[name], values[name].detach().to(BF16).float()), name
    assert torch.equal(read["complex"], numbers)
    assert torch.equal(read["as ints"], base.view(torch.int32))
    assert torch.equal(read["sparse"].to_dense(), (torch.eye(30) * 0.1).to(BF16).float())
    assert read["meta"].shape == (3,)


def test_what_no_half_can_hold_is_infinite_and_what_is_nan_stays_so() -> None:
    values = torch.tensor([70_000.0, -1e30, float("nan"), 65_504.0, 1e-9])
    read = rounded({"x": values}, torch.float16)["x"]
    assert torch.isinf(read[:2]).all()
    assert torch.isnan(read[2])
    assert read[3:].tolist() == [65_504.0, 0.0]


@pytest.mark.parametrize("shown", ["all", "half", "turned half"])
def test_memory_beside_the_tensor_is_small(shown: str) -> None:
    base = torch.ones(SIZES.large_result_mib, 2, MIB // 8)
    value = {"all": base, "half": base[:, 0], "turned half": base[:, 0].t()}[shown]
    reset_peak()
    before = memory_of().own
    archive = lay_out({"value": value}, BF16)
    assert value.numel() * 2 <= archive.size < value.numel() * 2 + 3000
    assert sum(len(piece.view) for piece in archive.pieces()) == archive.size
    assert [width for _, width in archive.samples(8, 1000)][1:] == [2] * 7
    assert memory_of().most_own - before < 64 * MIB


def test_it_takes_no_address_space_for_a_whole_tensor() -> None:
    """Which is what a sealed job's memory is counted in."""
    value = torch.ones(SIZES.large_result_mib, MIB // 4)
    before = address_space()
    archive = lay_out({"value": value, "turned": value.t()}, BF16)
    assert address_space() - before < 32 * MIB
    assert archive.size < value.numel() * 2 + 3000


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("target", [torch.float16, BF16])
def test_arrays_on_the_memory_of_a_rounded_tensor_are_not_rounded(target: torch.dtype, order: int) -> None:
    tensor = torch.randn(400, 400)
    values = {
        "tensor": tensor,
        "array": tensor.numpy(),
        "halves": tensor.numpy().view(np.float16).reshape(-1)[: tensor.numel()],
        "ints": tensor.view(torch.int32),
        "doubles": tensor.view(torch.float64),
    }
    read = rounded(dict(list(values.items())[::order]), target)
    assert torch.equal(read["tensor"], tensor.to(target).float())
    assert torch.equal(read["doubles"].nan_to_num(), values["doubles"].to(target).double().nan_to_num())
    for name in ("array", "halves", "ints"):
        assert bytes(memoryview(np.asarray(read[name]))) == bytes(memoryview(np.asarray(values[name]))), name


@pytest.mark.parametrize("order", [1, -1])
def test_tensors_of_other_classes_are_left_as_they_are(order: int) -> None:
    tensor = torch.randn(400, 400)
    values = {
        "tensor": tensor,
        "special": tensor.as_subclass(Special),
        "part": tensor[::2],
        "array": tensor.numpy(),
    }
    read = rounded(dict(list(values.items())[::order]))
    assert type(read["special"]) is Special
    assert torch.equal(read["special"], tensor)
    for name in ("tensor", "part"):
        assert torch.equal(read[name], values[name].to(BF16).float())
    assert np.array_equal(read["array"], values["array"])
