"""Comparing what two runs returned, bit by bit."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch


def returned(results: dict[str, dict[str, Any]], key: str) -> dict[str, Any]:
    """What the program returned; its own error fails the test."""
    outcome = results[key]
    if "error" in outcome:
        pytest.fail(outcome["error"], pytrace=False)
    value: dict[str, Any] = outcome["returned"]
    return value


def compared(value: dict[str, Any]) -> dict[str, Any]:
    """Without what only a remote run can tell."""
    return {name: item for name, item in value.items() if not name.startswith("fact_")}


def differences(left: Any, right: Any, where: str = "") -> Iterator[str]:
    """Each place in which the two differ, in words; tensors must have equal bits, shapes and dtypes."""
    if type(left) is not type(right):
        yield f"{where}: {left!r} against {right!r}"
    elif isinstance(left, torch.Tensor):
        yield from _tensor_differences(left, right, where)
    elif isinstance(left, dict):
        if left.keys() != right.keys():
            yield f"{where}: {sorted(left)} against {sorted(right)}"
        for name in left.keys() & right.keys():
            yield from differences(left[name], right[name], f"{where}.{name}")
    elif isinstance(left, list):
        if len(left) != len(right):
            yield f"{where}: {len(left)} items against {len(right)}"
        for number, (one, other) in enumerate(zip(left, right, strict=False)):
            yield from differences(one, other, f"{where}[{number}]")
    elif left != right:
        yield f"{where}: {left!r} against {right!r}"


def _tensor_differences(left: torch.Tensor, right: torch.Tensor, where: str) -> Iterator[str]:
    if left.dtype != right.dtype or left.shape != right.shape:
        yield f"{where}: {left.dtype} {tuple(left.shape)} against {right.dtype} {tuple(right.shape)}"
    elif not torch.equal(left, right):
        largest = (left.double() - right.double()).abs().max().item()
        yield f"{where}: the tensors differ by up to {largest}"
