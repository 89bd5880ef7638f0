"""What a job is told that asked for more memory than there is."""

import pytest
import torch

from edif.executor.out_of_memory import is_out_of_memory, out_of_memory

# As torch 2.13 words it.
OF_A_CARD = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 10.50 GiB is free. "
    "Including non-PyTorch memory, this process has 68.59 GiB memory in use."
)


def _because_of(cause: Exception) -> MemoryError:
    error = MemoryError()
    error.__cause__ = cause
    return error


def test_of_the_nodes_memory() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
    sentence = out_of_memory(_because_of(raised.value), None)
    assert (
        sentence
        == "The job ran out of memory: it asked for another 1.049e+06 GiB, which the node did not have."
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (OF_A_CARD, "it asked for another 20.00 GiB, and the device had 10.50 GiB left."),
        ("CUDA out of memory.", "it asked for more, and the device did not have it."),
    ],
)
def test_of_a_devices_memory(words: str, says: str) -> None:
    error = torch.OutOfMemoryError(words)
    assert is_out_of_memory(error)
    assert out_of_memory(_because_of(error), 2**31).endswith(says)


def test_other_errors_are_not() -> None:
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator: can't allocate memory"))
