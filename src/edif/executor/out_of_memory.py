"""What a job is told that asked for more memory than there is for it."""

import re

import torch

from edif.walls import memory


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of a library means that: the processor's allocator has no exception of its own, its text is all that there is."""
    on_processor = isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(
        error
    )
    return on_processor or isinstance(error, torch.OutOfMemoryError)


def out_of_memory(error: MemoryError, limit_bytes: int | None) -> str:
    """The sentence.

    Args:
        error: its cause is the library's error, if it was one.
        limit_bytes: what a sealed job may have beyond the model's.
    """
    if isinstance(error.__cause__, torch.OutOfMemoryError):
        return _of_device(str(error.__cause__))
    asked = re.search(r"allocate (\d+) bytes", str(error.__cause__ or error))
    wanted = "more" if asked is None else f"another {_gib(int(asked[1]))}"
    if limit_bytes is None:
        return f"The job ran out of memory: it asked for {wanted}, which the node did not have."
    reserved = memory.reserved_beyond(limit_bytes)
    used = "memory" if reserved is None else _gib(reserved)
    return f"The job had used {used} beyond the model's and asked for {wanted}; it may use {_gib(limit_bytes)} here."


def _of_device(words: str) -> str:
    """
    Args:
        words: torch's, for the device: "CUDA out of memory. Tried to allocate 20.00 GiB. ... of which 10.50 GiB is free. ...".
    """
    asked = re.search(r"Tried to allocate ([\d.]+ \w+)", words)
    free = re.search(r"of which ([\d.]+ \w+) is free", words)
    wanted = "more" if asked is None else f"another {asked[1]}"
    left = "did not have it" if free is None else f"had {free[1]} left"
    return f"The job ran out of memory on the model's device: it asked for {wanted}, and the device {left}."


def _gib(size: int) -> str:
    return f"{size / 2**30:,.4g} GiB"
