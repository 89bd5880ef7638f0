"""What a job has written to its copies: told by their bits, not by their numbers."""

from collections.abc import Callable

import pytest
import torch

from edif.executor.keeping import DTYPES
from edif.executor.merging.identity import Identity
from edif.executor.merging.lending import Lent
from edif.executor.merging.misfit import Misfit
from edif.executor.merging.visit import Visit

NUMBERS = torch.tensor([[1.0, float("nan"), 0.0], [float("inf"), 2.0, float("nan")]])


def visit(tensor: torch.Tensor) -> Visit:
    return Visit(0, 0, 0, [tensor], [Identity(1, 2, 3)], [], [])


@pytest.mark.parametrize("tracked", [False, True])
def test_who_only_looks_at_what_is_no_number_has_written_nothing(tracked: bool) -> None:
    lent = Lent()
    shown = visit(NUMBERS.clone())
    for _ in range(2):  # and the model has not written to it in between
        leaves = lent.lend(shown, [tracked])
        assert leaves[0].isnan().sum() == 2
        assert lent.written(shown, leaves) == []


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_of_every_dtype_what_is_written_past_torchs_count_is_noticed(dtype: torch.dtype) -> None:
    shown = visit(NUMBERS.nan_to_num(3.0, 3.0).to(dtype))
    lent = Lent()
    leaves = lent.lend(shown, [False])
    assert lent.written(shown, leaves) == []
    leaves[0].data[0, 2] = 1
    assert lent.written(shown, leaves) == [0]
    leaves[0].data[0, 0] = 0
    later = Visit(0, 0, 0, [], [], [], [])
    lent.lend(later, [])
    with pytest.raises(Misfit):
        lent.written(later, [])


def test_another_zero_is_another_value() -> None:
    shown, lent = visit(NUMBERS.clone()), Lent()
    leaves = lent.lend(shown, [False])
    leaves[0].data[0, 2] = -0.0
    assert lent.written(shown, leaves) == [0]


@pytest.mark.parametrize(
    "changed",
    [lambda data: data[:1], lambda data: data.to(torch.float64), lambda data: data[:, :1]],
    ids=["fewer rows", "another dtype", "narrower"],
)
def test_a_copy_of_another_shape_cannot_be_put_back(changed: Callable[[torch.Tensor], torch.Tensor]) -> None:
    shown, lent = visit(NUMBERS.clone()), Lent()
    leaves = lent.lend(shown, [False])
    leaves[0].data = changed(leaves[0].data)
    with pytest.raises(Misfit):
        lent.written(shown, leaves)
