"""One forward pass with the rows of several jobs.

The model runs once, on all rows. At a location for which some job waits, each of those gets the part of the value that is
its own, all at the same time, and what they change is put back before the model goes on. What a job does is checked here as
if it were hostile, for it may be: by its shape and dtype, and by the rows that it was given.
"""

import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch

from edif.executor.merging.ends import Ended, Ends
from edif.executor.merging.forms import Parts, put_together, take_apart
from edif.executor.merging.identity import Identities, Identity, Ties
from edif.executor.merging.layout import AFTER_GENERATION, Layout, Shown, handled_by
from edif.executor.merging.leaves import Leaf, Unservable, has_own_memory
from edif.executor.merging.request import Request, joined, shares
from edif.executor.merging.visit import Reply, Visit, Wanted
from edif.executor.merging.waiting import Waiting


class Left(Exception):
    """A job takes no further part in the pass: it has stopped, failed, died, or answers too slowly."""


class Party(Protocol):
    """A job that takes part in a pass."""

    @property
    def request(self) -> Request: ...

    def begin(self, counts: "array[int]") -> Wanted:
        """The pass begins; ``counts`` is kept up to date while it lasts. Returns what the job waits for."""

    def offer(self, visit: Visit) -> None:
        """Show it a visit."""

    def answer(self) -> tuple[Reply, Wanted]:
        """What it did with the visit that was offered last, and what it waits for now.

        Raises:
            Left: it is no longer there.
        """

    def drop(self, reason: str) -> None:
        """It cannot be served any further, and is to run alone."""

    def release(self) -> None:
        """There is nothing more for it in this pass, which goes on for others: it need not wait for the end."""


class _Over(BaseException):
    """Nobody waits for anything any more: the rest of the pass would be for nobody."""


class JointPass:
    """
    Args:
        model: the nnsight wrapper of the loaded model.
        layout: the model's.
        parties: whose requests are of one kind, or of one bucket.
        before_each_call: called before each of the model's forward passes; a generation has many.

    Attributes:
        rows: of all parties together.
        tokens: input tokens of the model's calls, of each party's own rows, without padding.
        seconds: wall time so far, in the end of the whole.
    """

    def __init__(
        self,
        model: Any,
        layout: Layout,
        parties: Sequence[Party],
        before_each_call: Callable[[], None] = lambda: None,
    ) -> None:
        self._model = model
        self._layout = layout
        self._before_each_call = before_each_call
        self._parties = list(parties)
        requests = [each.request for each in parties]
        self._request = joined(requests)
        self._shares = shares(requests)
        self._padded = any(each.padding for each in self._shares)
        self._calls = 0
        self._lengths = self._request.lengths(0)
        self._identities = Identities()
        self._ties = [Ties(self._identities) for _ in parties]
        self._counts = array("i", bytes(4 * len(layout.locations)))
        self._waiting = Waiting()
        self._ended = Ended(self._shares)
        self._root = f"{model.path}.input"
        self.tokens = [0] * len(self._parties)
        self.rows = self._request.rows
        self._began = time.monotonic()
        self._took_s: float | None = None

    def run(self) -> None:
        """Run it. Each party has taken its part, or left, when this returns.

        Raises:
            Exception: whatever the model raised.
        """
        self._began = time.monotonic()
        for number, party in enumerate(self._parties):
            self._waiting.note(number, party.begin(self._counts))
        try:
            with torch.no_grad(), handled_by(self._model.interleaver, self._handle):
                self._let_go(range(len(self._parties)))
                self._handle("result", self._call())
        except _Over:
            pass
        finally:
            self._took_s = self.seconds

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began if self._took_s is None else self._took_s

    def _call(self) -> Any:
        inputs = self._request.inputs()
        if not self._request.generates:
            return self._model._call(**inputs)  # noqa: SLF001 - what nnsight's own traces call
        ends = Ends(self._model, self._request, self._ended.note)
        return self._model.generate(**inputs, **dict(self._request.options), stopping_criteria=[ends])

    # -- who is in it ----------------------------------------------------------------------------------
    def _let_go(self, numbers: Iterable[int]) -> None:
        """Release those of them that wait for nothing any more.

        Raises:
            _Over: nobody does.
        """
        for number in numbers:
            if self._waiting.has_all(number):
                self._waiting.forget(number)
                self._parties[number].release()
        if not self._waiting:
            raise _Over

    # -- visits ----------------------------------------------------------------------------------------
    def _handle(self, name: str, value: Any) -> Any:
        location = self._layout.number(name)
        if location is None:
            self._unheard_of(name)
            return value
        if name == self._root:
            self._before_each_call()
            self._serve_results()
            self._identities.forget_gone()
            self._calls += 1
            self._lengths = self._request.lengths(self._calls)
            self._count_tokens(value)
        waiting = self._waiting.for_visit(location, self._counts[location])
        if self._ended:
            waiting = self._ended.served(waiting, self._layout.locations[location])
        if waiting:
            value = self._visit(location, waiting, value)
            self._let_go(waiting)
        self._counts[location] += 1
        return value

    def _unheard_of(self, name: str) -> None:
        """A module that the model did not come by when it was loaded. Who caches everything would miss it."""
        if not name.endswith(".skip"):
            for number in self._waiting.watchers():
                self._drop(number, f"the pass came by {name}, which it did not when the model was loaded")

    def _count_tokens(self, value: Any) -> None:
        _, kwargs = value
        length = kwargs["input_ids"].shape[1]
        for number, share in enumerate(self._shares):
            if number in self._waiting and number not in self._ended:
                self.tokens[number] += share.size * (length - (share.padding if length > 1 else 0))

    def _serve_results(self) -> None:
        """Serve those whose generation has just ended what it has given, which does not change any more, and release them."""
        ended = [each for each in self._ended.take_new() if each in self._waiting]
        for number in ended:
            self._serve_result(number, self._ended.ids.clone())
            self._waiting.forget(number)
        if ended:
            self._let_go(ended)

    def _serve_result(self, number: int, ids: torch.Tensor) -> None:
        """As at the end of the pass, where every other party comes by these locations itself."""
        came_by = []
        for name in AFTER_GENERATION:
            location = self._layout.number(name)
            if location is None:
                continue
            value: Any = ((ids,), {}) if name.endswith(".input") else ids
            if number in self._waiting.for_visit(location, self._counts[location]):
                value = self._visit(location, [number], value)
            ids = value[0][0] if isinstance(value, tuple) else value
            self._counts[location] += 1
            came_by.append(location)
        for location in came_by:
            self._counts[location] -= 1

    def _visit(self, location: int, waiting: Iterable[int], value: Any) -> Any:
        place, way = self._layout.locations[location], self._request.way
        parts = take_apart(value, caches=way in place.final)
        known = place.known(parts.form, way)
        shown = None if known is None else place.shown(known, padded=self._padded)
        if shown is None:
            strange = "of a form that it had not when the model was loaded"
            why = strange if known is None else "another where prompts are padded"
            for number in waiting:
                self._drop(number, f"the value at {place.name} is {why}")
            return value
        identities = [self._identities.of(each) for each in parts.leaves]
        offered = []
        for number in waiting:
            if self._offer(number, location, shown, identities, parts):
                offered.append(number)
        replies = {}
        for number in offered:
            reply = self._answer(number, shown, identities, parts)
            if reply is not None:
                replies[number] = reply
        if not self._put_back(replies, dict(shown.leaves), identities, parts):
            return value
        return put_together(parts.form, parts.leaves, parts.scalars, parts.opaque, parts.caches)

    def _own(self, number: int, leaf: Leaf, tensor: torch.Tensor) -> torch.Tensor:
        share = self._shares[number]
        part = leaf.part(tensor, share, self._lengths)
        return self._ended.own(number, leaf, part) if number in self._ended else part

    def _offer(
        self, number: int, location: int, shown: Shown, identities: Sequence[Identity], parts: Parts
    ) -> bool:
        try:
            own = [self._own(number, leaf, parts.leaves[index]) for index, leaf in shown.leaves]
        except Unservable:
            name = self._layout.locations[location].name
            self._drop(number, f"the rows of the value at {name} cannot be told apart")
            return False
        ties = self._ties[number]
        gone = ties.gone()  # before this visit's are named: what may come of them is not there yet
        named = [ties.name(identities[index]) for index, _ in shown.leaves]
        scalars = shown.scalars_of(parts.scalars)
        visit = Visit(location, self._counts[location], shown.form, own, named, scalars, gone)
        self._parties[number].offer(visit)
        return True

    def _answer(
        self, number: int, shown: Shown, identities: Sequence[Identity], parts: Parts
    ) -> Reply | None:
        """What it did, by the indices that the leaves have in the pass."""
        try:
            reply, wanted = self._parties[number].answer()
        except Left:
            self._waiting.forget(number)
            return None
        changed = [shown.leaves[each] for each in (*reply.edited, *reply.replaced)]
        if not all(leaf.writable and has_own_memory(parts.leaves[index]) for index, leaf in changed):
            self._drop(number, "it changes a value that all rows share")
            return None
        edited, replaced = (
            {shown.leaves[each][0]: tensor for each, tensor in tensors.items()} for tensors in reply
        )
        if not all(self._ties[number].whole(identities[index]) for index in edited):
            self._drop(number, "it writes to an activation that another job has put a tensor in place of")
            return None
        self._waiting.note(number, wanted)
        return Reply(edited, replaced)

    def _put_back(
        self,
        replies: Mapping[int, Reply],
        leaves: Mapping[int, Leaf],
        identities: Sequence[Identity],
        parts: Parts,
    ) -> bool:
        """Write what the parties changed where it belongs. Returns whether the value has other tensors than before."""
        for number, reply in replies.items():
            for index, rows in reply.edited.items():
                self._own(number, leaves[index], parts.leaves[index]).copy_(rows)
        replaced = {index for reply in replies.values() for index in reply.replaced}
        for index in replaced:
            # The model may hold on to the tensor that it gave: that one stays as it is.
            parts.leaves[index] = parts.leaves[index].clone()
            self._identities.succeeds(parts.leaves[index], identities[index])
            for number, ties in enumerate(self._ties):
                mine = replies[number].replaced.get(index) if number in replies else None
                if mine is None:
                    ties.goes_on(identities[index])
                else:
                    self._own(number, leaves[index], parts.leaves[index]).copy_(mine)
        return bool(replaced)

    def _drop(self, number: int, reason: str) -> None:
        self._waiting.forget(number)
        self._parties[number].drop(reason)
