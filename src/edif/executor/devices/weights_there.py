"""The weights on a device, from the side of the processes that run jobs on them."""

from collections.abc import Callable

import torch

from edif.executor.devices.device import Device, Span
from edif.executor.devices.keeper import Keeper
from edif.executor.devices.mark import Mark
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
        mark: in a fork, what tells the zygote that a job has begun there.

    Raises:
        CannotUseDevice: they cannot be held there.
    """

    def __init__(self, device: Device, arena: WeightArena, settle: Callable[[], None]) -> None:
        self.device = device
        self._arena = arena
        self.mark: Mark | None = None
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
        loaded.model.pipeline.device = there.device  # to which it brings the inputs of a trace of `pipe`
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
    """Notices every change of the weights on the device since its first :meth:`look`; what cannot be packed is not looked at.

    Args:
        there: all of them, uint8.
    """

    def __init__(self, there: torch.Tensor) -> None:
        self._there = there
        self._sums: Sums | None = None

    def look(self) -> None:
        """Note how they are, if that is not done. When this process begins with its first job, and not before: until then the last process that ran
        one may still write to them, or they are not put right yet.
        """
        if self._sums is None:
            self._sums = Sums(self._there)

    def unchanged(self) -> bool:
        return self._sums is None or not self._sums.changed()
