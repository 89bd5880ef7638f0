"""What the forks of the zygote have of it."""

from pathlib import Path
from typing import NamedTuple

from edif.executor.devices.weights_there import WeightsThere
from edif.executor.job import LoadedModel
from edif.executor.merging.layout import Layout
from edif.executor.warm_up import Rehearsals
from edif.executor.weights import WeightArena
from edif.wire.link import Merging


class Inheritance(NamedTuple):
    """
    Attributes:
        loaded: the model.
        arena: its weights, in the host's memory.
        there: where it computes on a device, the weights there.
        rehearsals: small jobs of our own.
        readable: the model's folders.
        threads: of a process that computes.
        merging: the bounds of shared passes; None if there are none.
        layout: how rows lie in the model's values; None if its traces are not merged.
    """

    loaded: LoadedModel
    arena: WeightArena
    there: WeightsThere | None
    rehearsals: Rehearsals
    readable: tuple[Path, ...]
    threads: int
    merging: Merging | None
    layout: Layout | None
