"""A sealed job in the driver: what it is shown, and what is believed of its answers."""

import os
import select
import socket
import time
from array import array
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from edif.executor.merging.bounds import Bounds
from edif.executor.merging.joint_pass import Left
from edif.executor.merging.layout import Layout
from edif.executor.merging.request import Request
from edif.executor.merging.seat_memory import Region, memory_file, place
from edif.executor.merging.visit import Reply, Visit, Wanted
from edif.wire import pipe, seat

LEAST_PATIENCE_S = 0.05
"""So long at least a job may take over one visit while others wait for it; then it is put out of the pass."""
_PATIENCE_PASSES = 0.5
"""Else this part of what passes have taken lately."""
_MOST_PATIENCE_S = 1.0
"""And no longer in any case: in what passes have taken is what jobs took over their visits."""
_VISITS = 4
"""So many times that, all together take over the visits of one call of the model."""
_SHARE = 0.5
"""And this part of the whole pass so far, beside the visits of one call: who has every token of a generation wait is put out too."""

TOO_SLOW = "it answered too slowly while others waited"


class Patience:
    """How long a pass waits for its parties.

    Args:
        pass_s: what passes have taken lately.
    """

    def __init__(self, pass_s: float) -> None:
        self._of_visit_s = min(max(LEAST_PATIENCE_S, _PATIENCE_PASSES * pass_s), _MOST_PATIENCE_S)
        self._began = time.monotonic()
        self._waited_s: dict[SealedParty, float] = {}
        """For those that are still in the pass: what the others waited for who is put out is not their fault."""
        self._left_s = 0.0
        self.renew()

    def renew(self) -> None:
        """The model is called anew: a generation does so for each token."""
        of_call_s = _VISITS * self._of_visit_s
        of_pass_s = of_call_s + _SHARE * (time.monotonic() - self._began) - sum(self._waited_s.values())
        self._left_s = min(of_call_s, max(of_pass_s, 0.0))

    def wait_for(self, party: "SealedParty") -> bool:
        """Wait until there is something to be heard from it. Returns False if that takes too long.

        Where what all of them may take is used up, who has taken the most of it is put out, whoever is waited for.
        """
        visit_s = self._of_visit_s
        while True:
            began = time.monotonic()
            ready = select.select([party.sock], [], [], max(min(visit_s, self._left_s), 0.0))[0]
            waited_s = time.monotonic() - began
            visit_s -= waited_s
            self._left_s -= waited_s
            self._waited_s[party] = self._waited_s.get(party, 0.0) + waited_s
            if ready:
                return True
            slowest = party if visit_s <= 0 else max(self._waited_s, key=self._waited_s.__getitem__)
            del self._waited_s[slowest]
            self.renew()
            if slowest is party:
                return False
            slowest.drop(TOO_SLOW)


class Gone(Exception):
    """The seat is left, or what came over it is not in the protocol."""


class SealedParty:
    """A sealed job, as the driver sees it: hostile, until the contrary is proved.

    Args:
        number: its seat's.
        sock: the driver's end of the seat, non-blocking.
        layout: the model's.
        bounds: what it may ask for.

    Attributes:
        asked: what it asked for last, and ``asked_at`` when.
        patience: how long it may take over its visits in the pass that runs.
        settle: has the agent told what it had of that pass so far, and returns the input tokens of its rows.
        dropped: whether it takes no part in a pass, or no more.
    """

    def __init__(self, number: int, sock: socket.socket, layout: Layout, bounds: Bounds) -> None:
        self.number = number
        self.sock = sock
        self.asked: Request | None = None
        self.asked_at = 0.0
        self.patience = Patience(0.0)
        self.settle: Callable[[], int] = lambda: 0
        self.dropped = True
        self._layout = layout
        self._bounds = bounds
        self._wanted = Wanted([], [])
        self._counts: array[int] = array("i")
        self._region: Region | None = None
        self._leaves: list[seat.Leaf] = []

    @property
    def request(self) -> Request:
        assert self.asked is not None
        return self.asked

    # -- as a party of a pass --------------------------------------------------------------------------
    def begin(self, counts: "array[int]") -> Wanted:
        self._counts = counts
        self.dropped = False
        return self._wanted

    def offer(self, visit: Visit) -> None:
        if self.dropped:  # while another was waited for
            return
        try:
            self._leaves, span = place(visit.tensors, visit.identities)
            region = self._room(span)
            region.set_counts(self._counts)
            for leaf, tensor in zip(self._leaves, visit.tensors, strict=True):
                region.tensor(leaf).copy_(tensor)
            pipe.send(
                self.sock,
                seat.Visit(
                    visit.location,
                    visit.occurrence,
                    visit.form,
                    self._leaves,
                    list(visit.scalars),
                    list(visit.gone),
                ),
            )
        except (pipe.PipeError, BlockingIOError):
            self.drop("what it waits for cannot be said to it")  # nor can that, if it is gone
        except OSError as error:  # too many open files, or no memory for it: the others have theirs
            self.drop(f"there is no room for what it waits for ({error.strerror})")

    def answer(self) -> tuple[Reply, Wanted]:
        if self.dropped:
            raise Left
        message = self._receive()
        if message.leaves:
            self.end()
            raise Left
        assert self._region is not None
        if not all(each < len(self._leaves) for each in (*message.edited, *message.replaced)):
            raise self._misbehaves()
        self._wanted = Wanted(self._known(message.wants), self._wanted.watched)
        edited = {index: self._region.tensor(self._leaves[index]) for index in message.edited}
        replaced = {
            index: self._region.tensor(self._leaves[index], replacement=True) for index in message.replaced
        }
        return Reply(edited, replaced), self._wanted

    def drop(self, reason: str) -> None:
        self.end(reason)

    def release(self) -> None:
        self.end()

    def end(self, failed: str = "") -> None:
        """Its part in the pass is over, if it is not yet; void if that ``failed``, for this reason.

        The agent hears of it before the job does, so it hears of it before the job can tell that it has ended itself.
        """
        if not self.dropped:
            self.dropped = True
            tokens = self.settle()
            self.say(seat.Over(bool(failed), failed, tokens))

    def _receive(self) -> seat.Answer:
        if not self.patience.wait_for(self):
            self.drop(TOO_SLOW)
            raise Left
        try:
            message = self.hear()
        except Gone:
            raise self._misbehaves() from None  # which it hears if it is there, and only said what is no message
        if not isinstance(message, seat.Answer):
            raise self._misbehaves()
        return message

    def _misbehaves(self) -> Left:
        self.drop("what it said cannot be understood")
        return Left()

    def _room(self, span: int) -> Region:
        if self._region is None or self._region.span < span:
            fd, start, span = memory_file(len(self._layout.locations), span)
            try:
                region = Region(fd, start, span)
                pipe.send(self.sock, seat.Memory(start, span), (fd,))
            finally:
                os.close(fd)
            self._region = region  # which it has heard of
        return self._region

    # -- what it says ----------------------------------------------------------------------------------
    def hear(self) -> seat.ToDriver:
        """The next message.

        Raises:
            Gone: there will be none.
        """
        try:
            message, fds = pipe.receive(self.sock, seat.to_driver)
        except pipe.PipeError as error:
            raise Gone from error
        for fd in fds:
            os.close(fd)
        return message

    def say(self, message: Any) -> None:
        """What cannot be said is not said: it has left, or does not listen, and its socket is full."""
        with suppress(pipe.PipeError, BlockingIOError):
            pipe.send(self.sock, message)

    def take(self, message: seat.Join, now: float) -> Request | None:
        """The request that it makes; None if the model must not be called with that."""
        request = self._bounds.request(message)
        if request is None or request.way not in self._layout.ways:
            return None
        if any(each >= len(self._layout.locations) for each in message.watched):
            return None
        self._wanted = Wanted(self._known(message.wants), list(message.watched))
        self.asked, self.asked_at = request, now
        return request

    def _known(self, wants: Iterable[seat.Want]) -> list[tuple[int, int]]:
        count = len(self._layout.locations)
        return [(each.location, each.occurrence) for each in wants if each.location < count]
