"""Comparing what two runs of one program returned.

Imports torch and nnsight, which the results consist of.
"""

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far apart two numbers may be: ``absolute + relative * |number|``."""

    absolute: float
    relative: float = 0.0


@dataclass(slots=True)
class _Comparison:
    tolerance: Tolerance | None
    requires_grad: bool
    compared: dict[tuple[int, int], tuple[Any, Any]] = field(default_factory=dict)
    """By their ids, which stay theirs while they are held here."""


def loaded(result: bytes) -> dict[str, Any]:
    """The saved values by name, as the stock client loads them."""
    values: dict[str, Any] = torch.load(io.BytesIO(result), map_location="cpu", weights_only=False)
    return values


def differences(
    left: Any, right: Any, tolerance: Tolerance | None = None, *, requires_grad: bool = True
) -> list[str]:
    """Each place in which the two differ, in words; empty when nothing differs.

    Tensors and arrays have equal bits, dtypes and shapes, and tensors the same ``requires_grad``; all else is equal and of
    equal type. With a tolerance floating-point numbers may differ so far, and infinite ones and NaN are where the other's are.

    Args:
        requires_grad: whether that it is the same counts, too.
    """
    return list(_differ(left, right, "", _Comparison(tolerance, requires_grad)))


def _differ(left: Any, right: Any, where: str, comparison: _Comparison) -> Iterator[str]:
    pair = (id(left), id(right))
    if pair in comparison.compared:
        return
    if type(left) is not type(right):
        yield f"{where}: {_short(left)} against {_short(right)}"
    elif isinstance(left, torch.Tensor):
        yield from _tensors(left, right, where, comparison)
    elif isinstance(left, np.ndarray | np.generic):
        yield from _tensors(_as_tensor(left), _as_tensor(right), where, comparison)
    elif isinstance(left, float):
        yield from _tensors(
            torch.tensor(left, dtype=torch.float64),
            torch.tensor(right, dtype=torch.float64),
            where,
            comparison,
        )
    elif isinstance(left, Mapping | list | tuple):
        comparison.compared[pair] = (left, right)
        yield from _containers(left, right, where, comparison)
    elif hasattr(left, "__dict__") and not isinstance(left, type):
        comparison.compared[pair] = (left, right)
        yield from _differ(vars(left), vars(right), where, comparison)
    elif left != right:
        yield f"{where}: {_short(left)} against {_short(right)}"


def _containers(left: Any, right: Any, where: str, comparison: _Comparison) -> Iterator[str]:
    if isinstance(left, Mapping):
        if left.keys() != right.keys():  # in any order: that of the saved names is by chance
            yield f"{where}: the names {list(left)} against {list(right)}"
        for name in left:
            if name in right:
                yield from _differ(left[name], right[name], f"{where}.{name}", comparison)
        return
    if len(left) != len(right):
        yield f"{where}: {len(left)} items against {len(right)}"
    for number, (one, other) in enumerate(zip(left, right, strict=False)):
        yield from _differ(one, other, f"{where}[{number}]", comparison)


def _tensors(left: torch.Tensor, right: torch.Tensor, where: str, comparison: _Comparison) -> Iterator[str]:
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        yield f"{where}: {left.dtype} {list(left.shape)} against {right.dtype} {list(right.shape)}"
        return
    if comparison.requires_grad and left.requires_grad != right.requires_grad:
        yield f"{where}: requires_grad {left.requires_grad} against {right.requires_grad}"
    left, right = left.detach(), right.detach()
    if not _same_bits(left, right) and not _near(left, right, comparison.tolerance):
        yield f"{where}: the values differ, by up to {_distance(left, right):.3g}"


def _same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    bits = _BITS[left.element_size()] if not left.is_complex() else torch.int64
    one, other = (each.contiguous().reshape(-1).view(bits) for each in (left, right))
    return torch.equal(one, other)


def _near(left: torch.Tensor, right: torch.Tensor, tolerance: Tolerance | None) -> bool:
    if tolerance is None or not left.is_floating_point():
        return False
    return torch.allclose(
        left.double(), right.double(), rtol=tolerance.relative, atol=tolerance.absolute, equal_nan=True
    )


def _distance(left: torch.Tensor, right: torch.Tensor) -> float:
    """The largest distance of two numbers; infinite where only one of them is a number."""
    if left.is_complex():
        left, right = torch.view_as_real(left), torch.view_as_real(right)
    distances = (left.double() - right.double()).abs()
    strange = distances.isnan() & ~(left.isnan() & right.isnan())
    return math.inf if strange.any() else distances.nan_to_num(0.0).max().item()


def _as_tensor(value: Any) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(value))


def _short(value: Any) -> str:
    text = f"{type(value).__name__} {value!r}"
    return text if len(text) <= 200 else f"{text[:200]}..."
