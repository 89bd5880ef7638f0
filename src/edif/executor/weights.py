"""One place for all of a model's weights, in which every change shows.

The zygote copies them into a memory file and maps it privately, copy-on-write. Forked processes then share
one copy, forking duplicates no page tables, and a process that has written to a weight - by whatever means,
``.data`` and raw pointers included - owns a page that is no longer the file's. The kernel tells which
(``/proc/self/pagemap``), in far less time than reading the weights would take.
"""

from collections.abc import Sequence
from typing import Protocol

import torch

from edif.executor.own_memory import PAGE, pages_changed
from edif.executor.weight_file import WeightFile

_ALIGN = 64
"""Bytes; what vectorised kernels like."""


class WeightArena:
    """The packed weights of one model; make it in the process that forks, when nothing writes to them any more.

    Args:
        module: the loaded model. Its parameters and buffers stay the same objects, tied ones stay tied.

    Attributes:
        size_bytes: bytes of all parameters and buffers, tied ones counted once.
        whole: the arena's bytes, uint8, whole huge pages.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        everything = [each for each in (*module.parameters(), *module.buffers()) if _has_bytes_here(each)]
        tensors = [each for each in everything if not (each.is_quantized or each.is_conj() or each.is_neg())]
        packed = {id(each) for each in tensors}
        self._odd = [each for each in everything if id(each) not in packed]
        sizes: dict[int, int] = {}
        for tensor in tensors:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = max(storage.nbytes(), sizes.get(storage.data_ptr(), 0))
        places: dict[int, tuple[int, int]] = {}
        end = 0
        for address, size in sizes.items():
            places[address] = (end, size)
            end += -(-size // _ALIGN) * _ALIGN
        self.size_bytes = sum(size for _, size in places.values())
        self._by_pagemap = _pagemap_tells()  # asked once, here, and not by every fork
        self.whole = torch.empty(0, dtype=torch.uint8)
        if not end:
            return
        file = WeightFile(end)
        self.whole = file.bytes
        self._move(tensors, places, file)
        file.seal()

    def _move(
        self, tensors: list[torch.Tensor], places: dict[int, tuple[int, int]], file: WeightFile
    ) -> None:
        """Copy each storage into the file and have its tensors show the private mapping of it."""
        buffer = self.whole.numpy()
        moved: dict[int, torch.UntypedStorage] = {}
        for tensor in tensors:
            storage = tensor.untyped_storage()
            address = storage.data_ptr()
            if address not in moved:
                start, size = places[address][0], storage.nbytes()
                file.write(start, torch.empty(0, dtype=torch.uint8).set_(storage))
                # A storage of its own: what saves a tensor's storage must not meet the whole arena.
                moved[address] = torch.frombuffer(
                    buffer, dtype=torch.uint8, offset=start, count=size
                ).untyped_storage()
            # The old storage is freed with the last tensor on it, so the peak is one tensor above the sum.
            tensor.data = torch.empty(0, dtype=tensor.dtype).set_(
                moved[address], tensor.storage_offset(), tensor.shape, tensor.stride()
            )

    def guard(self) -> "WeightGuard":
        """What notices changes in this process from now on."""
        return WeightGuard(self.whole, self._odd, by_pagemap=self._by_pagemap)

    def start_of(self, tensor: torch.Tensor) -> int | None:
        """Where the storage of this parameter or buffer begins in :attr:`whole`; None if it is not in it."""
        if not _has_bytes_here(tensor):
            return None
        start = tensor.untyped_storage().data_ptr() - self.whole.data_ptr()
        return start if 0 <= start < self.whole.numel() else None

    @property
    def tells_at_once(self) -> bool:
        """Whether a guard costs next to nothing, to make and to ask."""
        return self._by_pagemap and not self._odd


class Guard(Protocol):
    """Notices when a job has changed the weights."""

    def unchanged(self) -> bool: ...


class WeightGuard:
    """Notices every change of the arena's bytes in the process that made it.

    Where the kernel does not tell about pages, it compares the sum of each page's bits, at memory speed; then
    only what leaves a page's sum as it was goes unseen. The rare tensor that cannot be packed is compared with a copy.
    """

    def __init__(self, whole: torch.Tensor, odd: Sequence[torch.Tensor] = (), *, by_pagemap: bool) -> None:
        self._whole = whole
        self._odd = [(tensor, tensor.detach().clone()) for tensor in odd]
        self.by_pagemap = by_pagemap
        self._sums = None if by_pagemap else self._page_sums()
        self._pagemap: int | None = None

    def keep_looking_from(self, pagemap: int) -> None:
        """From now on by this descriptor of the process's own page map: where it will be closed in, it cannot open it."""
        self._pagemap = pagemap

    def unchanged(self) -> bool:
        if not all(torch.equal(tensor, copy) for tensor, copy in self._odd):
            return False
        if self._sums is not None:
            return torch.equal(self._sums, self._page_sums())
        return not pages_changed(self._whole.data_ptr(), self._whole.numel(), self._pagemap)

    def _page_sums(self) -> torch.Tensor:
        return self._whole.view(torch.int64).view(-1, PAGE // 8).sum(1)


def _has_bytes_here(tensor: torch.Tensor) -> bool:
    here = tensor.device.type == "cpu" and tensor.layout is torch.strided
    return here and tensor.untyped_storage().nbytes() > 0


def _pagemap_tells() -> bool:
    """Whether this kernel shows a written page, and no other: tried on a huge page of our own, as weights lie on."""
    file = WeightFile(1)
    file.write(0, torch.ones(1, dtype=torch.uint8))
    file.seal()
    probe = file.bytes
    try:
        probe.sum()
        before = pages_changed(probe.data_ptr(), probe.numel())
        probe[0] = 1
        return (before, pages_changed(probe.data_ptr(), probe.numel())) == (0, 1)
    except OSError:
        return False
