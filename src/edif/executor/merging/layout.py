"""Where in each of a model's values the rows of a prompt lie.

A value of a batch is a tensor with a dimension for its rows, or with rows and tokens in one, or the same for all rows. Which
of them it is cannot be told from one pass; :mod:`edif.executor.merging.probes` finds it out.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from edif.executor.merging.forms import Form, Scalar, opaque_kinds
from edif.executor.merging.leaves import Leaf, LeafLayout
from edif.executor.merging.request import Request, Way

AFTER_GENERATION = ("model.generator.input", "model.generator.output", "result")
"""What a generation comes by when it is over, in this order: all that it has generated."""


@dataclass(slots=True)
class Shown:
    """How a value of a shared pass is shown to the parties.

    Attributes:
        form: the number of the form that it has for them.
        leaves: of that form, each with the index that it has in the pass.
        scalars: likewise, each with the value of the job's own pass in case the pass has none; None if they are those of the
            pass.
    """

    form: int
    leaves: list[tuple[int, Leaf]]
    scalars: list[tuple[int | None, Scalar]] | None = None

    def scalars_of(self, scalars: Sequence[Scalar]) -> Sequence[Scalar]:
        """What a party is shown where the pass has these."""
        if self.scalars is None:
            return scalars
        return [own if index is None else scalars[index] for index, own in self.scalars]


@dataclass(slots=True)
class FormLayout:
    """
    Attributes:
        strange: whether it was not in the same way in all runs of the model, or could not be compared: it is not served then.
    """

    way: Way
    form: Form
    leaves: list[LeafLayout]
    strange: bool = False


@dataclass(slots=True)
class Location:
    """What is true in one way of calling the model need not be so in another; its forms are numbered over all.

    Attributes:
        final: the ways in which key-value caches are met here and do not change any more: there they are taken apart.
        padded: how values of a form are shown to those who call the model without padding; None if they cannot be.
    """

    name: str
    forms: list[FormLayout] = field(default_factory=list)
    final: set[Way] = field(default_factory=set)
    padded: dict[int, Shown | None] = field(default_factory=dict)

    @property
    def in_generation(self) -> bool:
        """Whether a generation comes by it in its course, and not when it is over."""
        return self.name not in AFTER_GENERATION

    def known(self, form: Form, way: Way) -> int | None:
        """The number of this form, if it was seen when the model was loaded, and was not strange."""
        for number, each in enumerate(self.forms):
            if each.way == way and not each.strange and each.form == form:
                return number
        return None

    def hide(self, way: Way) -> None:
        """Serve nothing of what is met here in this way."""
        for each in self.forms:
            each.strange = each.strange or each.way == way

    def serves(self, way: Way) -> bool:
        """Whether anything that is met here in this way is served."""
        return any(each.way == way and not each.strange for each in self.forms)

    def shown(self, form: int, *, padded: bool) -> Shown | None:
        """How a value of this form is shown to the parties; None if it cannot be."""
        return self.padded.get(form) if padded else Shown(form, [*enumerate(self.forms[form].leaves)])


@contextmanager
def handled_by(interleaver: Any, handle: Any) -> Iterator[None]:
    """Within the block the model's modules hand their values to ``handle``, as they else do to nnsight's own."""
    interleaver.handle = handle
    interleaver.interleaving = interleaver.busy = True
    try:
        yield
    finally:
        del interleaver.handle
        interleaver.interleaving = interleaver.busy = False


class Layout:
    """Every location of a model, numbered, with the forms and rows of its values.

    Learned in the process that forks, so all of its children have the same.

    Attributes:
        locations: in the order of their numbers.
        ways: in which the model was called; in others no pass is shared.
        difference: the largest of any value between a batch and a pass of one row, see :class:`~edif.wire.link.Merging`.
        pads: the ways of calling it whose passes may be shared by prompts of different length, with padding.
        padded_difference: the largest of any value between a row with padding and a pass without; None if it was not measured.
        why_unpadded: of the ways in which padding was to be measured, why passes are not padded; in words, empty if all are.
        longest: tokens of the longest prompt that is padded, those that it generates included.
    """

    def __init__(self) -> None:
        self.locations: list[Location] = []
        self.ways: set[Way] = set()
        self.difference = 0.0
        self.pads: set[Way] = set()
        self.padded_difference: float | None = None
        self.why_unpadded: list[str] = []
        self.longest = 0
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int | None:
        return self._numbers.get(name)

    def place(self, name: str) -> Location:
        """The location of this name; a new one if there was none."""
        number = self._numbers.setdefault(name, len(self.locations))
        if number == len(self.locations):
            self.locations.append(Location(name))
        return self.locations[number]

    def opaque(self, number: int, way: Way) -> bool:
        """Whether values of this location have parts that are not served."""
        forms = self.locations[number].forms
        return any(any(opaque_kinds(each.form)) for each in forms if each.way == way)

    def bucket(self, request: Request) -> Hashable | None:
        """Requests of one bucket can share a pass with padding; None for one that cannot have any."""
        if request.way not in self.pads or request.length > self.longest:
            return None
        return request.bucket
