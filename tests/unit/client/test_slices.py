"""What a slice of a tensor that lies elsewhere needs is what torch would show, and hardly more."""

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from edif.client.slices import slice_of

SHAPES = st.lists(st.integers(0, 7), max_size=4).map(tuple)


@st.composite
def indexed(draw: st.DrawFn) -> tuple[tuple[int, ...], Any]:
    """A shape, and an index that fits it."""
    shape = draw(SHAPES)
    index: list[Any] = []
    for size in shape[: draw(st.integers(0, len(shape)))]:
        if draw(st.booleans()):
            index.append(None)
        ends = st.none() | st.integers(-size - 2, size + 2)
        slices = st.builds(slice, ends, ends, st.none() | st.integers(1, 3))
        index.append(draw(slices if size == 0 else slices | st.integers(-size, size - 1)))
    if draw(st.booleans()):
        index.append(...)
    return shape, index[0] if len(index) == 1 else tuple(index)


@given(indexed(), st.sampled_from([1, 2, 8, 10_000]))
def test_pieces_put_together_are_the_slice(case: tuple[tuple[int, ...], Any], itemsize: int) -> None:
    shape, index = case
    whole = torch.arange(torch.Size(shape).numel()).view(shape)
    expected = whole[index]
    wanted = slice_of(shape, itemsize, index)
    found = torch.full(wanted.shape, -1)
    for position, first in wanted.pieces() if found.numel() else ():
        fetched = whole.view(-1)[first : first + wanted.extent]
        assert len(fetched) == wanted.extent, "it asks for what is there"
        if wanted.gapless:
            assert wanted.extent == found[position].numel()
        found[position] = fetched.as_strided(*wanted.inner)
    assert torch.equal(found, expected)


def asked(shape: tuple[int, ...], index: Any) -> tuple[int, int]:
    """How many pieces, and how many bytes, of a tensor of four-byte elements."""
    wanted = slice_of(shape, 4, index)
    pieces = list(wanted.pieces())
    return len(pieces), len(pieces) * wanted.extent * 4


@pytest.mark.parametrize(
    ("index", "pieces", "size"),
    [
        (..., 1, 12 * 1024 * 4096 * 4),
        (5, 1, 1024 * 4096 * 4),
        (slice(2, 4), 1, 2 * 1024 * 4096 * 4),
        ((slice(None), -1), 12, 12 * 4096 * 4),
        ((slice(None, None, 3), slice(0, 10)), 4, 4 * 10 * 4096 * 4),
        ((0, slice(None, None, 512), slice(0, 100)), 2, 2 * 400),
        ((0, slice(0, 8), 0), 1, (7 * 4096 + 1) * 4),  # eight requests for four bytes each would take longer
    ],
)
def test_a_layer_of_many_is_one_piece_and_nothing_else(index: Any, pieces: int, size: int) -> None:
    assert asked((12, 1024, 4096), index) == (pieces, size)


def test_large_shapes_cost_nothing_to_think_about() -> None:
    assert asked((10**6, 10**4, 10**4), (999_999, 5, slice(0, 16))) == (1, 64)


def test_whatever_stands_for_an_integer_is_one() -> None:
    for one in (np.int64(1), np.uint8(1), torch.tensor(1)):
        assert slice_of((3, 4), 4, one) == slice_of((3, 4), 4, 1)
        assert slice_of((3, 4), 4, (one, slice(one, None))) == slice_of((3, 4), 4, (1, slice(1, None)))


@pytest.mark.parametrize(
    "index",
    [
        [0, 1],
        np.array([0]),
        np.bool_(1),
        torch.tensor(True),
        torch.tensor([0]),
        True,
        (0, True),
        "x",
        1.0,
        (slice(None), [1]),
    ],
)
def test_other_indices_are_refused_with_what_to_do(index: Any) -> None:
    with pytest.raises(TypeError, match="integers, slices"):
        slice_of((3, 4), 4, index)


@pytest.mark.parametrize("index", [3, -4, (0, 4), (0, 0, 0)])
def test_what_lies_outside_is_an_index_error(index: Any) -> None:
    with pytest.raises(IndexError):
        slice_of((3, 4), 4, index)
