"""Tensors by their bits.

As numbers NaN is not equal to itself, and 0.0 is to -0.0: whether somebody has written to a tensor is not told by its numbers.
"""

import torch

_WHOLE_NUMBERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By the bytes that an element takes."""


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether these two, of equal dtype, have equal shapes and equal bits."""
    return torch.equal(_whole_numbers(one), _whole_numbers(other))


def sum_of_bits(tensor: torch.Tensor) -> int:
    """A sum that shows, in all likelihood, what is written through ``.data`` or numpy, of which torch keeps no count."""
    return int(_whole_numbers(tensor).sum())


def _whole_numbers(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.resolve_neg().view(_WHOLE_NUMBERS[tensor.element_size()])
