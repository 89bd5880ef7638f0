"""The tensors that a job has of the shared pass: copies of its own rows, with the ties that the originals have.

A tensor that the pass comes by twice, as a module's output and the next one's input, is one tensor for the job too, as long as it
holds it. What it writes there, at a visit, is carried over; what it writes anywhere else has to be noticed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from edif.executor.merging.bits import same_bits, sum_of_bits
from edif.executor.merging.identity import Identity
from edif.executor.merging.misfit import Misfit
from edif.executor.merging.visit import Visit


class _Traced(torch.autograd.Function):
    """A tensor of the shared pass as a job has it: with a history, as in a pass of its own, that cannot be followed back."""

    @staticmethod
    def forward(_: Any, tensor: torch.Tensor, __: torch.Tensor) -> torch.Tensor:
        return tensor.clone()

    @staticmethod
    def backward(*_: Any) -> Any:
        raise Misfit("it asks for a gradient through the model")


class _Copy(NamedTuple):
    tensor: torch.Tensor
    memory: int
    version: int
    bits: int


class Lent:
    """The copies that one job has in one pass."""

    def __init__(self) -> None:
        self._anchor = torch.zeros((), requires_grad=True)
        self._copies: dict[int, _Copy] = {}
        """By the number of the original, of those that the pass still has. Held even if the job does not: it may have views."""
        self._before: list[int] = []

    def lend(self, visit: Visit, tracked: Sequence[bool]) -> list[torch.Tensor]:
        """The job's copies of a visit's tensors.

        Args:
            tracked: which of them have a history in a pass of the job's own.
        """
        for number in visit.gone:
            self._copies.pop(number, None)
        leaves = []
        for tensor, identity, has_history in zip(visit.tensors, visit.identities, tracked, strict=True):
            known = self._copies.get(identity.tensor)
            copy = self._copied(tensor, has_history) if known is None else known.tensor
            if known is not None and not same_bits(copy, tensor):  # the model has written to it since
                with torch.no_grad():
                    copy.copy_(tensor)
            self._copies[identity.tensor] = _Copy(copy, identity.memory, _version(copy), 0)
            leaves.append(copy)
        self._before = [_version(each) for each in leaves]
        return leaves

    def _copied(self, tensor: torch.Tensor, has_history: bool) -> torch.Tensor:
        if not has_history:
            return tensor.clone()
        copy: torch.Tensor = _Traced.apply(tensor, self._anchor)  # type: ignore[no-untyped-call]
        return copy

    def replaced(self, identity: Identity, tensor: torch.Tensor) -> None:
        """The job has put this tensor in place of the one with that identity: that is what the pass goes on with."""
        self._copies[identity.successor] = _Copy(
            tensor, identity.successor, _version(tensor), sum_of_bits(tensor)
        )

    def written(self, visit: Visit, leaves: Sequence[torch.Tensor]) -> list[int]:
        """The indices of the visit's leaves to which the job has written.

        Raises:
            Misfit: it has written to others of its copies, which in a pass of its own might still be in use; or to one of
                several that show the same memory; or has given one another shape or dtype.
        """
        changed = []
        for index, (leaf, tensor, before) in enumerate(zip(leaves, visit.tensors, self._before, strict=True)):
            if leaf.shape != tensor.shape or leaf.dtype != tensor.dtype:  # through ``.data``
                raise Misfit("it puts a tensor of another shape or dtype in place of the model's")
            # By the bits too: what was written through ``.data`` or numpy moves no version.
            if _version(leaf) != before or not same_bits(leaf, tensor):
                changed.append(index)
        shown = {identity.tensor for identity in visit.identities}
        written = {visit.identities[index] for index in changed}
        for number, copy in self._copies.items():
            late = number not in shown and (
                _version(copy.tensor) != copy.version or sum_of_bits(copy.tensor) != copy.bits
            )
            if late:
                raise Misfit("it writes to an activation after the pass has gone on")
            if any(number != each.tensor and copy.memory == each.memory for each in written):
                raise Misfit("it writes to an activation of which it has another view")
        for identity, leaf in zip(visit.identities, leaves, strict=True):
            self._copies[identity.tensor] = _Copy(leaf, identity.memory, _version(leaf), sum_of_bits(leaf))
        return changed


def _version(tensor: torch.Tensor) -> int:
    """torch's count of what was written to it in place."""
    return tensor._version  # noqa: SLF001
