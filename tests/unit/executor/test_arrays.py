"""numpy arrays in an archive: laid out without a copy where torch can show their memory, and read as what they were by anyone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from edif.executor.archive import lay_out
from edif.walls.memory import memory_of, reset_peak
from tests.sizes import SIZES
from tests.unit.executor.test_archive import MIB, content, loaded

Array = np.ndarray[Any, Any]
LONG = 40_000


class Special(np.ndarray):  # type: ignore[type-arg]
    pass


def random(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape)


def unwritable() -> Array:
    array = random(LONG)
    array.flags.writeable = False
    return array


DTYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
    "complex64", "complex128",
)  # fmt: skip
ARRAYS: dict[str, Callable[[], Array]] = {
    **{name: lambda name=name: (random(LONG * 2) * 9).astype(name) for name in DTYPES},  # type: ignore[misc]
    "small": lambda: random(3, 4),
    "empty": lambda: random(0, 5),
    "no dimensions": lambda: np.array(2.5),
    "rows": lambda: random(300, 400)[::2],
    "columns": lambda: random(300, 400)[:, 1::2],
    "turned": lambda: random(300, 400).T,
    "fortran": lambda: np.asfortranarray(random(300, 400)),
    "backwards": lambda: random(LONG)[::-1],
    "broadcast": lambda: np.broadcast_to(random(400), (300, 400)),
    "shows itself twice": lambda: np.lib.stride_tricks.as_strided(random(LONG), (300, LONG), (0, 8)),
    "windows": lambda: np.lib.stride_tricks.sliding_window_view(random(LONG), 7),
    "unwritable": unwritable,
    "big-endian": lambda: random(LONG).astype(">f8"),
    "long double": lambda: random(LONG).astype(np.longdouble),
    "dates": lambda: np.arange(LONG).astype("datetime64[s]"),
    "text": lambda: np.array(["some", "words"] * LONG),
    "records": lambda: np.zeros(LONG, dtype=[("a", "i4"), ("b", "f8")]),
    "field of records": lambda: np.zeros(LONG, dtype=[("a", "i2"), ("b", "f8")])["b"],
    "objects": lambda: np.array([1, "two", None] * LONG, dtype=object),
    "subclass": lambda: random(LONG).view(Special),
    "a tensor's": lambda: torch.randn(LONG).numpy(),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_array_is_read_as_it_was(name: str) -> None:
    array = ARRAYS[name]()
    read = loaded({"array": array, "list": [array]})["array"]
    assert type(read) is type(array)
    assert (read.dtype, read.shape) == (array.dtype.newbyteorder("="), array.shape), "as numpy pickles them"
    assert np.array_equal(read, array)
    assert read.flags.writeable, "as one that was pickled"
    assert read.flags.f_contiguous == array.flags.f_contiguous or not array.flags.f_contiguous
    if read.size and read.dtype.kind in "fiu":
        before = read.copy()
        read[...] += 1
        assert np.array_equal(read, before + 1), "its values lie in places of their own"


def test_the_same_array_is_the_same_array() -> None:
    array = random(LONG)
    read = loaded({"a": array, "b": [array]})
    assert read["a"] is read["b"][0]
    assert len(content({"a": array, "b": [array]})) < array.nbytes + 3000


@pytest.mark.parametrize("order", [1, -1])
def test_arrays_and_tensors_of_one_memory_do_not_meet(order: int) -> None:
    """torch refuses to write one memory as two dtypes."""
    tensor = torch.randn(200, 400)
    values = {
        "tensor": tensor,
        "array": tensor.numpy(),
        "as ints": tensor.view(torch.int32),
        "ints": tensor.numpy().view(np.int32),
        "beginning": tensor.numpy()[:90],
        "beginning, ints": tensor.numpy()[:90].view(np.int32),
        "part": tensor[::2],
    }
    read = loaded(dict(list(values.items())[::order]))
    for name, value in values.items():
        assert type(read[name]) is type(value)
        assert np.array_equal(np.asarray(read[name]), np.asarray(value)), name


def test_a_tensor_seen_as_two_dtypes_is_written() -> None:
    tensor = torch.randn(100, 400)
    read = loaded({"floats": tensor, "ints": tensor.view(torch.int32)})
    assert torch.equal(read["floats"], tensor)
    assert torch.equal(read["ints"], tensor.view(torch.int32))
    numbers = torch.randn(100, 400, dtype=torch.complex64)
    read = loaded({"numbers": numbers, "imaginary": numbers.imag})
    assert torch.equal(read["imaginary"], numbers.imag)


def test_a_beginning_that_is_saved_as_an_array_takes_nothing_else_along() -> None:
    tensor = torch.randn(1000, 1000)
    values = {"beginning": tensor[:100].numpy(), "others": tensor[::10]}
    assert len(content(values)) < 2 * 100 * 1000 * 4 + 3000


@pytest.mark.parametrize("shown", ["all", "half"])
def test_memory_beside_the_array_is_small(shown: str) -> None:
    base = np.ones((SIZES.large_result_mib, 2, MIB // 8), np.float32)
    array = base if shown == "all" else base[:, 0]
    reset_peak()
    before = memory_of().own
    archive = lay_out({"value": array})
    assert archive.size >= array.nbytes
    assert sum(len(piece.view) for piece in archive.pieces()) == archive.size
    assert memory_of().most_own - before < 64 * MIB


def test_nothing_is_said_of_arrays(recwarn: pytest.WarningsRecorder) -> None:
    loaded({name: make() for name, make in ARRAYS.items()})
    assert not list(recwarn)
