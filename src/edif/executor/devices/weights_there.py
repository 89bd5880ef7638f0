"""The weights on a device, from the side of the processes that run jobs on them."""

from collections.abc import Callable

import torch

from edif.executor.devices.device import Device, Span
from edif.executor.devices.keeper import Keeper
from edif.executor.devices.sums import Sums
from edif.executor.job import LoadedModel
from edif.executor.weights import WeightArena


class WeightsThere:
    """Made in the zygote, once; its forks bring the model there.

    Args:
        device: where.
        arena: the weights in the host's memory.
        settle: what a fork does first.

    Attributes:
        device: where they are.
        keeper: who holds them.

    Raises:
        CannotUseDevice: they cannot be held there.
    """

    def __init__(self, device: Device, arena: WeightArena, settle: Callable[[], None]) -> None:
        self.device = device
        self._arena = arena
        self.keeper = Keeper(device, arena.whole, settle)

    def bring(self, loaded: LoadedModel) -> torch.Tensor:
        """Have this process's model compute on the device, with the weights that all share. Called in a fork, once.

        Returns:
            All of the weights there, uint8.

        Raises:
            CannotUseDevice: the device, or what is held there, is gone.
        """
        self.device.begin()
        whole = self._arena.whole
        span = self.device.open(*self.keeper.shared, whole.numel())
        there = span.view(0, whole.numel())
        _move(loaded.module, self._arena, span, there.device)
        loaded.finish = self.device.finish
        return there


def _move(module: torch.nn.Module, arena: WeightArena, span: Span, device: torch.device) -> None:
    """Have parameters and buffers show the device's copies. They stay the same objects, and tied ones stay tied."""
    storages: dict[int, torch.UntypedStorage] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        start = arena.start_of(tensor)
        if start is None:  # what cannot be packed is this process's own
            tensor.data = tensor.data.to(device)
            continue
        if start not in storages:
            storages[start] = span.view(start, tensor.untyped_storage().nbytes()).untyped_storage()
        tensor.data = torch.empty(0, dtype=tensor.dtype, device=device).set_(
            storages[start], tensor.storage_offset(), tensor.shape, tensor.stride()
        )


class GuardThere:
    """Notices every change of the weights on the device since it was made; what cannot be packed is not looked at.

    Args:
        there: all of them, uint8.
    """

    def __init__(self, there: torch.Tensor) -> None:
        self._sums = Sums(there)

    def unchanged(self) -> bool:
        return not self._sums.changed()
