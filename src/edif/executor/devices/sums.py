"""Whether memory of a device has changed, told by sums that whoever changed it cannot know.

Each row of words is multiplied by odd numbers that this process alone has drawn, and added up, modulo 2 ** 64. A single word that changed changes its row's
sum; several that are to make up for each other would have to be chosen by those numbers.
"""

import os

import torch

_WORDS = 2**20
"""Of one row: 8 MiB, the grain of what is put right."""
_ROWS = 8
"""Of one step, which needs memory for so many products."""

ROW_BYTES = _WORDS * 8


class Sums:
    """The sums as they are now.

    Args:
        whole: uint8, contiguous, a multiple of eight bytes. It is looked at again at each call.
    """

    def __init__(self, whole: torch.Tensor) -> None:
        self._words = whole.view(torch.int64)
        drawn = torch.frombuffer(bytearray(os.urandom(ROW_BYTES)), dtype=torch.int64)
        self._factors = (drawn | 1).to(whole.device)
        self._then = self._now()

    def changed(self) -> list[int]:
        """The rows, each of :data:`ROW_BYTES`, that are not as they were at the beginning."""
        differs: list[int] = torch.nonzero(self._now() != self._then).flatten().tolist()
        return differs

    def _now(self) -> torch.Tensor:
        whole_rows = len(self._words) // _WORDS
        rows = self._words[: whole_rows * _WORDS].view(-1, _WORDS)
        rest = self._words[whole_rows * _WORDS :]
        sums = [(part * self._factors).sum(1) for part in rows.split(_ROWS) if len(part)]  # type: ignore[no-untyped-call]
        if len(rest):
            sums.append((rest * self._factors[: len(rest)]).sum().view(1))
        return torch.cat(sums).cpu()
