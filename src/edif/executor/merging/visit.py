"""What a shared pass and its parties say to each other: which visits are waited for, what is shown at one, and what comes back."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from edif.executor.merging.identity import Identity


class Wanted(NamedTuple):
    """Visits that the job waits for, as (location, occurrence), and locations whose every visit its caches record."""

    visits: list[tuple[int, int]]
    watched: list[int]


class Visit(NamedTuple):
    """What one party is shown of a location.

    Attributes:
        location: its number.
        occurrence: which visit of it in this pass, from 0 on.
        form: which of its forms the value has.
        tensors: the party's own rows.
        identities: of the tensors that they are rows of.
        scalars: numbers and texts.
        gone: tensors that the job was shown earlier, and that the pass has no more use for.
    """

    location: int
    occurrence: int
    form: int
    tensors: Sequence[torch.Tensor]
    identities: Sequence[Identity]
    scalars: Sequence[Any]
    gone: Sequence[int]


class Reply(NamedTuple):
    """What a job did with a visit's leaves, by their index: written to in place, or put another tensor in place of."""

    edited: dict[int, torch.Tensor]
    replaced: dict[int, torch.Tensor]
