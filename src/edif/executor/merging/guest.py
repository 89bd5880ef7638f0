"""A job's side of a shared pass: its own nnsight, served with its own rows, visit by visit.

The job's workers, invokes, barriers, caches and edits are nnsight's and stay so: what a module's controller would hand to
the interleaver in a pass of the job's own, a visit hands to it here. So a job sees what it would see alone, and the one who
runs the pass needs to know nothing of it but which visits it waits for.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from nnsight.intervention.interleaver import Event

from edif.executor.merging.forms import Form, put_together, take_apart
from edif.executor.merging.layout import Layout
from edif.executor.merging.misfit import Misfit
from edif.executor.merging.request import Way


class Wanted(NamedTuple):
    """Visits that the job waits for, as (location, occurrence), and locations whose every visit its caches record."""

    visits: list[tuple[int, int]]
    watched: list[int]


class Reply(NamedTuple):
    """What a job did with a visit's leaves, by their index: written to in place, or put another tensor in place of."""

    edited: dict[int, torch.Tensor]
    replaced: dict[int, torch.Tensor]


class _Lent(torch.autograd.Function):
    """A tensor of the shared pass as a job has it: with a history, as in a pass of its own, that cannot be followed back."""

    @staticmethod
    def forward(_: Any, tensor: torch.Tensor, __: torch.Tensor) -> torch.Tensor:
        return tensor.clone()

    @staticmethod
    def backward(*_: Any) -> Any:
        raise Misfit("it asks for a gradient through the model")


class _Counts(dict[str, int]):
    """nnsight's count of visits by location, which the shared pass keeps."""

    def __init__(self, layout: Layout, count: Callable[[int], int]) -> None:
        super().__init__()
        self._layout = layout
        self._count = count

    def get(self, key: str, default: Any = None) -> Any:
        number = self._layout.number(key)
        return super().get(key, default) if number is None else self._count(number)

    def __setitem__(self, key: str, value: int) -> None:
        if self._layout.number(key) is None:  # of a module that the job attached and calls itself
            super().__setitem__(key, value)


class Guest:
    """
    Args:
        interleaver: nnsight's, with the job's workers started.
        layout: the model's.

    Attributes:
        tracked: whether the job's code runs with gradients on, so that its activations must look as if they had some.
    """

    def __init__(self, interleaver: Any, layout: Layout) -> None:
        self._interleaver = interleaver
        self._layout = layout
        self.tracked = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        self._anchor = torch.zeros((), requires_grad=True)
        self._lent: list[tuple[weakref.ref[torch.Tensor], int]] = []

    def begin(self, count: Callable[[int], int]) -> None:
        """The pass begins. From now on nnsight's counts are the pass's: of visits of a location, by its number."""
        self._interleaver.counts = _Counts(self._layout, count)
        for mediator in self._interleaver.mediators:
            mediator.counts_at_start = {}

    def fits(self, way: Way) -> bool:
        """Whether all that the job is known to want can be served: asked before anything is done in a shared pass."""
        if way not in self._layout.ways:
            return False
        pending = [each.pending for each in self._interleaver.mediators if each.pending is not None]
        if any(each.event is Event.SKIP for each in pending):
            return False
        if any(self._layout.number(each.provider) is None for each in pending if each.provider is not None):
            return False
        # A cache is saved whole, with what a shared pass does not hand out.
        watched = [self._layout.number(name) for name in self._interleaver.observers]
        return not any(self._layout.opaque(each, way) for each in watched if each is not None)

    def wanted(self) -> Wanted:
        """
        Raises:
            Misfit: the job waits for something that a shared pass does not serve.
        """
        visits = {
            self._visit(each.pending) for each in self._interleaver.mediators if each.pending is not None
        }
        # Modules that the model did not come by when it was loaded are cached, too, but there is nothing to serve.
        watched = [self._layout.number(name) for name in self._interleaver.observers]
        return Wanted(sorted(each for each in visits if each), [each for each in watched if each is not None])

    def _visit(self, pending: Any) -> tuple[int, int] | None:
        if pending.event is Event.BARRIER:
            return None
        if pending.event is Event.SKIP:
            raise Misfit("it skips a module")
        return self._known(pending.provider), pending.iteration

    def _known(self, name: str) -> int:
        number = self._layout.number(name)
        if number is None:
            raise Misfit(f"it waits for {name}")
        return number

    def serve(
        self, location: int, form_number: int, tensors: Sequence[torch.Tensor], scalars: Sequence[Any]
    ) -> Reply:
        """Have the job do with a value what it waits to do.

        Args:
            tensors: its own rows. They are copied, and may be used again when this returns.

        Raises:
            Misfit: it did what cannot be carried over to the shared pass.
            EarlyStopException: its part in the pass ends here, by its own wish.
            Exception: what its code raised.
        """
        place = self._layout.locations[location]
        form = place.forms[form_number]
        leaves = [self._lend(tensor, leaf.tracked) for tensor, leaf in zip(tensors, form.leaves, strict=True)]
        before = [each._version for each in leaves]  # noqa: SLF001 - torch's count of edits in place
        value = put_together(form.form, leaves, scalars)
        edited = self._interleaver.handle(place.name, value)
        self.check_lent()
        reply = Reply({}, {}) if edited is value else self._changed(form.form, leaves, scalars, edited)
        for index, (leaf, tensor, version) in enumerate(zip(leaves, tensors, before, strict=True)):
            # By the bytes too: what was written through ``.data`` or numpy moves no version.
            if leaf._version != version or not torch.equal(leaf, tensor):  # noqa: SLF001
                reply.edited[index] = leaf.detach()
        self._lent += [(weakref.ref(leaf), leaf._version) for leaf in leaves]  # noqa: SLF001
        return reply

    def _lend(self, tensor: torch.Tensor, tracked: bool) -> torch.Tensor:
        if not (self.tracked and tracked):
            return tensor.clone()
        lent: torch.Tensor = _Lent.apply(tensor, self._anchor)  # type: ignore[no-untyped-call]
        return lent

    def _changed(self, form: Form, leaves: list[torch.Tensor], scalars: Sequence[Any], edited: Any) -> Reply:
        parts = take_apart(edited)
        if parts.form != form or parts.scalars != list(scalars):
            raise Misfit("it puts a value of another form in place of the model's")
        replaced = {}
        for index, (leaf, now) in enumerate(zip(leaves, parts.leaves, strict=True)):
            if now is not leaf:
                if now.shape != leaf.shape or now.dtype != leaf.dtype or now.device != leaf.device:
                    raise Misfit("it puts a tensor of another shape or dtype in place of the model's")
                replaced[index] = now.detach()
        return Reply({}, replaced)

    def check_lent(self) -> None:
        """
        Raises:
            Misfit: the job wrote to a tensor of an earlier visit, which in a pass of its own might still be in use.
        """
        alive = []
        for reference, version in self._lent:
            tensor = reference()
            if tensor is not None:
                if tensor._version != version:  # noqa: SLF001
                    raise Misfit("it writes to an activation after the pass has gone on")
                alive.append((reference, version))
        self._lent = alive
