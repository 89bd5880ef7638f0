"""A comparison that overlooks something would have every proof succeed that rests on it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.programs.results import Tolerance, differences

ONES = torch.ones(2, 3)


@dataclass
class Entry:
    output: Any


DIFFERENT: dict[str, tuple[Any, Any]] = {
    "one bit": (ONES, torch.nextafter(ONES, 2 * ONES)),
    "the sign of zero": (torch.zeros(2), -torch.zeros(2)),
    "NaN and a number": (torch.tensor([1.0, math.nan]), torch.tensor([1.0, 2.0])),
    "infinity and a number": (torch.tensor(math.inf), torch.tensor(2.0)),
    "a shape": (ONES, torch.ones(3, 2)),
    "a row more": (ONES, torch.ones(1, 3)),
    "a dtype": (ONES, ONES.double()),
    "gradients": (ONES, ONES.clone().requires_grad_()),
    "integers": (torch.tensor([1, 2]), torch.tensor([1, 3])),
    "booleans": (torch.tensor([True]), torch.tensor([False])),
    "complex numbers": (torch.ones(2, dtype=torch.complex64), 2 * torch.ones(2, dtype=torch.complex64)),
    "bfloat16": (ONES.bfloat16(), 1.5 * ONES.bfloat16()),
    "a number": (1.0, 1.0000000000000002),
    "a kind of number": (1, 1.0),
    "a bool for a number": (True, 1),
    "a word": ("a", "b"),
    "an array": (np.ones(3, np.float32), np.array([1, 1, 2], np.float32)),
    "an array's dtype": (np.ones(3, np.float32), np.ones(3)),
    "a numpy number": (np.float32(1), np.float32(2)),
    "a name": ({"a": 1}, {"b": 1}),
    "a name more": ({"a": 1}, {"a": 1, "b": 2}),
    "a length": ([1], [1, 2]),
    "the order": ([1, 2], [2, 1]),
    "a list for a tuple": ([1], (1,)),
    "nothing": ([None], [0]),
    "what is within": ({"a": [(ONES, {"b": Entry(ONES)})]}, {"a": [(ONES, {"b": Entry(2 * ONES)})]}),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_a_difference_is_found(what: str) -> None:
    left, right = DIFFERENT[what]
    assert differences({"value": left}, {"value": right})
    assert differences({"value": right}, {"value": left})
    assert differences(left, left) == []


def test_equal_values_in_other_memory_do_not_differ() -> None:
    left = {
        "a": torch.arange(6.0).reshape(2, 3).T,
        "b": [math.nan, torch.tensor([math.nan])],
        "c": torch.ones(()),
    }
    right = {"c": torch.ones(()), "a": left["a"].contiguous(), "b": [math.nan, torch.tensor([math.nan])]}
    assert differences(left, right) == []


def test_whether_gradients_would_flow_may_be_left_out() -> None:
    learning = ONES.clone().requires_grad_()
    assert differences(ONES, learning, requires_grad=False) == []
    assert differences(ONES, 2 * learning, requires_grad=False)


def test_what_contains_itself_is_compared_once() -> None:
    left, right = [ONES], [ONES.clone()]
    left.append(left)  # type: ignore[arg-type]
    right.append(right)  # type: ignore[arg-type]
    assert differences(left, right) == []


def test_a_tolerance_forgives_numbers_and_nothing_else() -> None:
    near = Tolerance(absolute=1e-4)
    assert differences([ONES, 1.0], [ONES + 5e-5, 1.00005], near) == []
    assert len(differences(ONES, ONES + 2e-4, near)) == 1
    assert differences(100 * ONES, 100.5 * ONES, Tolerance(0.0, relative=0.01)) == []
    assert differences(torch.tensor([math.nan, math.inf]), torch.tensor([math.nan, math.inf]), near) == []
    for left, right in (
        (torch.tensor([math.nan]), torch.tensor([1.0])),
        (torch.tensor([math.inf]), torch.tensor([1.0])),
        (torch.tensor([1]), torch.tensor([2])),
        (ONES, ONES.double()),
        (ONES, torch.ones(3, 2)),
        ([1], [2]),
    ):
        assert len(differences(left, right, near)) == 1
