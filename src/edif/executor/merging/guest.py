"""A job's side of a shared pass: its own nnsight, served with its own rows, visit by visit.

The job's workers, invokes, barriers, caches and edits are nnsight's and stay so: what a module's controller would hand to
the interleaver in a pass of the job's own, a visit hands to it here. So a job sees what it would see alone, and the one who
runs the pass needs to know nothing of it but which visits it waits for.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from greenlet import getcurrent
from nnsight.intervention.interleaver import Event

from edif.executor.merging.forms import TENSOR, Form, Parts, opaque_kinds, put_together, take_apart
from edif.executor.merging.kv_caches import ShownCaches
from edif.executor.merging.layout import Layout
from edif.executor.merging.lending import Lent
from edif.executor.merging.misfit import Elsewhere, Misfit, standing_in_for
from edif.executor.merging.request import Way
from edif.executor.merging.visit import Reply, Visit, Wanted


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
        way: in which the model is called.
    """

    def __init__(self, interleaver: Any, layout: Layout, way: Way) -> None:
        self._way = way
        self._interleaver = interleaver
        self._layout = layout
        self._grad_outside: bool | None = None  # the job's own mode, while it is in the midst of a generation
        self._lent = Lent()
        self._caches = ShownCaches()

    def begin(self, count: Callable[[int], int]) -> None:
        """The pass begins. From now on nnsight's counts are the pass's: of visits of a location, by its number."""
        self._interleaver.counts = _Counts(self._layout, count)
        for mediator in self._interleaver.mediators:
            mediator.counts_at_start = {}

    def end(self) -> None:
        """The pass is over for the job, which goes on by itself."""
        self._set_grad(in_generation=False)
        self._belong_here()

    def unwind(self) -> None:
        """End the job's workers here and now: what they have set for the length of a block is set back."""
        self._belong_here()
        self._interleaver.cancel()

    def _belong_here(self) -> None:
        for mediator in self._interleaver.mediators:
            if mediator.alive:  # whoever served it last may have been on another greenlet
                mediator.worker.parent = getcurrent()

    def _set_grad(self, *, in_generation: bool) -> None:
        """transformers generates without gradients, and that is how a job's code then runs, unless it says otherwise."""
        if in_generation and self._grad_outside is None:
            self._grad_outside = torch.is_grad_enabled()
            torch.set_grad_enabled(False)
        elif not in_generation and self._grad_outside is not None:
            torch.set_grad_enabled(self._grad_outside)
            self._grad_outside = None

    def fits(self) -> bool:
        """Whether all that the job is known to want can be served: asked before anything is done in a shared pass."""
        if self._way not in self._layout.ways:
            return False
        pending = [each.pending for each in self._interleaver.mediators if each.pending is not None]
        if any(each.event is Event.SKIP for each in pending):
            return False
        if not all(self._served(each.provider) for each in pending if each.provider is not None):
            return False
        # A cache is saved whole, with what a shared pass does not hand out.
        watched = [self._layout.number(name) for name in self._interleaver.observers]
        return not any(self._layout.opaque(each, self._way) for each in watched if each is not None)

    def _served(self, name: str) -> bool:
        number = self._layout.number(name)
        return number is not None and self._layout.locations[number].serves(self._way)

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

    def serve(self, visit: Visit) -> Reply:
        """Have the job do with a value what it waits to do. The visit's tensors may be used again when this returns.

        Raises:
            Misfit: it did what cannot be carried over to the shared pass.
            EarlyStopException: its part in the pass ends here, by its own wish.
            Exception: what its code raised.
        """
        place = self._layout.locations[visit.location]
        form = place.forms[visit.form]
        self._set_grad(in_generation=self._way.generates and place.in_generation)
        # What the job's code sets, for a block or for good, holds for the model too, until it sets it back.
        tracked = torch.is_grad_enabled()
        if tracked and self._grad_outside is not None:
            raise Misfit("it has gradients on while it generates")
        leaves = self._lent.lend(visit, [tracked and leaf.tracked for leaf in form.leaves])
        opaque = [standing_in_for(kind) for kind in opaque_kinds(form.form)]
        value = put_together(form.form, leaves, visit.scalars, opaque, self._caches.caches)
        edited = self._interleaver.handle(place.name, value)
        reply = Reply({}, {})
        shown: Sequence[Any] = ()
        if edited is not value or form.form != TENSOR:  # containers change in place, too
            parts = take_apart(edited, caches=self._way in place.final)
            reply = self._changed(form.form, leaves, visit.scalars, opaque, parts)
            shown = parts.caches
        self._caches.note(shown)
        for index in self._lent.written(visit, leaves):
            reply.edited[index] = leaves[index].detach()
        for index, tensor in reply.replaced.items():
            self._lent.replaced(visit.identities[index], tensor)
        return Reply(reply.edited, {index: tensor.detach() for index, tensor in reply.replaced.items()})

    def _changed(
        self,
        form: Form,
        leaves: list[torch.Tensor],
        scalars: Sequence[Any],
        opaque: list[Elsewhere],
        parts: Parts,
    ) -> Reply:
        same = parts.form == form and parts.scalars == list(scalars)
        if not same or any(now is not was for now, was in zip(parts.opaque, opaque, strict=True)):
            raise Misfit("it puts a value of another form in place of the model's")
        replaced = {}
        for index, (leaf, now) in enumerate(zip(leaves, parts.leaves, strict=True)):
            if now is not leaf:
                if now.shape != leaf.shape or now.dtype != leaf.dtype or now.device != leaf.device:
                    raise Misfit("it puts a tensor of another shape or dtype in place of the model's")
                replaced[index] = now
        return Reply({}, replaced)
