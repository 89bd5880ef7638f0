"""Which rows of a shared generation have come to their end, and which parties with them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from edif.executor.merging.layout import Location
from edif.executor.merging.leaves import Kind, Leaf, Share
from edif.executor.merging.request import Request


class Ends:
    """Watches a generation for rows that end: a batch goes on until the last of them has. It stops nothing itself."""

    def __init__(
        self, model: Any, request: Request, note: Callable[[Sequence[bool], torch.Tensor], None]
    ) -> None:
        default = getattr(model._module.generation_config, "eos_token_id", None)  # noqa: SLF001
        ends: Any = dict(request.options).get("eos_token_id", default)
        self._ends = torch.tensor(ends if isinstance(ends, list) else [] if ends is None else [ends])
        self._ended = torch.zeros(request.rows, dtype=torch.bool)
        self._note = note

    def __call__(self, ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        self._ended |= torch.isin(ids[:, -1], self._ends)
        self._note(self._ended.tolist(), ids)
        return torch.zeros(len(ids), dtype=torch.bool)


class Ended:
    """Parties all of whose rows have ended, by their numbers.

    Args:
        shares: which rows are whose.

    Attributes:
        ids: of all rows, as far as they are generated.
    """

    def __init__(self, shares: Sequence[Share]) -> None:
        self.ids = torch.empty(0)
        self._shares = shares
        self._after: dict[int, int] = {}  # so many tokens, padding included
        self._new: set[int] = set()
        """Those that have ended in the present call of the model: their last token may not have been streamed yet."""

    def __bool__(self) -> bool:
        return bool(self._after)

    def __contains__(self, party: int) -> bool:
        return party in self._after

    def note(self, ended: Sequence[bool], ids: torch.Tensor) -> None:
        """So much is generated, and of the rows these have ended."""
        self.ids = ids
        for party, share in enumerate(self._shares):
            if party not in self._after and all(ended[share.start : share.start + share.size]):
                self._after[party] = ids.shape[1]
                self._new.add(party)

    def take_new(self) -> list[int]:
        """Those that have ended since this was asked, in the order of their numbers."""
        new, self._new = sorted(self._new), set()
        return new

    def served(self, waiting: list[int], place: Location) -> list[int]:
        """Those of them that are served there: whose generation has ended gets nothing more but what it generated."""
        if not place.in_generation:
            return waiting
        late = self._new if ".streamer" in place.name else set()
        return [each for each in waiting if each not in self._after or each in late]

    def own(self, party: int, leaf: Leaf, part: torch.Tensor) -> torch.Tensor:
        """The part of a tensor that belongs to one that has ended, without what was generated for others."""
        if leaf.kind is Kind.ROWS and part.dim() == 2:
            return part[:, : self._after[party] - self._shares[party].padding]
        return part
