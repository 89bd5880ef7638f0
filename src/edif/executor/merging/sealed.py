"""The company of a sealed job: it asks for passes on its seat, and is served by the driver, another process.

Values come in memory that both see; what is said is in :mod:`edif.wire.seat`. The driver is trusted with the job's rows, as
it runs the model; it does not trust the job.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from edif.executor.merging.guest import Guest
from edif.executor.merging.identity import Identity
from edif.executor.merging.layout import Layout
from edif.executor.merging.misfit import Misfit
from edif.executor.merging.request import Request
from edif.executor.merging.seat_memory import Region
from edif.executor.merging.traces import NEEDS_OWN_PASS
from edif.executor.merging.visit import Visit, Wanted
from edif.wire import pipe, seat

if TYPE_CHECKING:
    from edif.executor.untouched import Untouched

_GONE = "the driver of shared passes is gone"


class SealedCompany:
    """
    Args:
        sock: this end of the seat.
        module: the served model's.
        layout: of its values.
        untouched: notices what the job has changed.
    """

    def __init__(
        self, sock: socket.socket, module: torch.nn.Module, layout: Layout, untouched: "Untouched"
    ) -> None:
        self.is_there = True
        self.shares = True
        self.unshared = NEEDS_OWN_PASS
        self.changed = untouched.changed
        self.changed_for_now = untouched.changed_for_now
        self.module = module
        self.layout = layout
        self.misfits: list[str] = []
        self.shared_passes = 0
        self.tokens = 0
        self.passes: list[pipe.Shared] = []  # of a sealed job only the driver's word counts
        self._sock = sock
        self._region: Region | None = None
        self._granted = False

    def join(self, request: Request, guest: Guest) -> bool:
        join = _join(request, guest.wanted())
        if not _fits(join):
            return False
        begun = False
        if not self._say(join):
            return False
        while True:
            message = self._receive()
            if message is None and not begun:
                return False  # nothing was done yet: the job goes on by itself
            match message:
                case seat.Alone():
                    self._granted = True
                    return False
                case seat.Visit():
                    if not begun:
                        guest.begin(self._count)
                        begun = True
                    self._serve(guest, message)
                case seat.Over():
                    self._over(message)
                    return True
                case None:
                    raise Misfit(_GONE)

    def step_aside(self) -> None:
        """Nobody is in its way."""

    def disturbed(self) -> str:
        return ""  # nobody else is in its process

    def _over(self, message: seat.Over) -> None:
        self.shared_passes += 1
        self.tokens += message.tokens
        if message.failed:
            raise Misfit(message.reason)
        self._look_for_changes(self.changed)

    @staticmethod
    def _look_for_changes(changed: Callable[[], str]) -> None:
        if reason := changed():
            raise Misfit(reason)

    @contextmanager
    def alone(self) -> Iterator[None]:
        if self.is_there and not self._granted:
            self._ask_alone()
        used_us, before = None, time.process_time_ns()
        try:
            yield
            used_us = (time.process_time_ns() - before) // 1000
        finally:
            self._granted = False
            if self.is_there:
                self._say(seat.AloneOver(used_us))

    def unhurried(self) -> AbstractContextManager[None]:
        """Nobody waits for it."""
        return nullcontext()

    def _ask_alone(self) -> None:
        """Wait for a turn. Where there is no driver any more there are no turns."""
        if self._say(seat.AskAlone()):
            while not isinstance(self._receive(), seat.Alone | None):
                pass

    def _serve(self, guest: Guest, visit: seat.Visit) -> None:
        assert self._region is not None, "the driver says first where its values lie"
        tensors = [self._region.tensor(leaf) for leaf in visit.leaves]
        try:
            identities = [Identity(leaf.tensor, leaf.memory, leaf.successor) for leaf in visit.leaves]
            reply = guest.serve(
                Visit(
                    visit.location,
                    visit.occurrence,
                    visit.form,
                    tensors,
                    identities,
                    visit.scalars,
                    visit.gone,
                )
            )
            wanted = guest.wanted()
            self._look_for_changes(self.changed_for_now)
        except Misfit:
            self._leave()
            raise
        except BaseException:
            self._leave()
            self._look_for_changes(self.changed)  # it may have come to this by what the pass did not show
            raise
        for index, rows in reply.edited.items():
            tensors[index].copy_(rows)
        for index, rows in reply.replaced.items():
            self._region.tensor(visit.leaves[index], replacement=True).copy_(rows)
        self._send(seat.Answer([*reply.edited], [*reply.replaced], _wants(wanted), leaves=False))

    def _leave(self) -> None:
        """The job leaves the pass of its own will. It waits until the driver has told the agent what it had of that.

        The driver waits for answers at this very visit, so it reads this one soon.
        """
        self._send(seat.Answer([], [], [], leaves=True))
        self.shared_passes += 1
        while (message := self._receive()) is not None:
            if isinstance(message, seat.Over):
                self.tokens += message.tokens
                return

    def _say(self, message: Any) -> bool:
        """Returns False if the driver is gone: then the job has no company from now on."""
        try:
            pipe.send(self._sock, message)
        except pipe.PipeError:
            self.is_there = self.shares = False
        return self.is_there

    def _send(self, message: Any) -> None:
        if not self._say(message):
            raise Misfit(_GONE)

    def _receive(self) -> seat.Alone | seat.Visit | seat.Over | None:
        """The next message; None if the driver is gone."""
        while True:
            try:
                message, fds = pipe.receive(self._sock, seat.to_job)
            except pipe.PipeError:
                self.is_there = self.shares = False
                return None
            if not isinstance(message, seat.Memory):
                return message
            try:
                self._region = Region(fds[0], message.start, message.span)
            finally:
                for fd in fds:
                    os.close(fd)

    def _count(self, location: int) -> int:
        """How often this location has been visited in the pass that runs."""
        return 0 if self._region is None else int(self._region.counts[location])


def _join(request: Request, wanted: Wanted) -> seat.Join:
    mask, positions = (b"" if each is None else _bytes(each) for each in (request.mask, request.positions))
    return seat.Join(
        generates=request.generates,
        rows=request.rows,
        tokens=request.tokens,
        ids=_bytes(request.ids),
        mask=mask,
        positions=positions,
        options=dict(request.options),
        wants=_wants(wanted),
        watched=wanted.watched,
    )


def _fits(message: seat.Join) -> bool:
    """Whether it can be said; of long prompts it cannot."""
    return (
        len(message.ids) <= seat.MAX_IDS_BYTES and len(message.wants) <= seat.MAX_WANTS and pipe.fits(message)
    )


def _bytes(numbers: torch.Tensor) -> bytes:
    return numbers.contiguous().numpy().tobytes()


def _wants(wanted: Wanted) -> list[seat.Want]:
    return [seat.Want(location, occurrence) for location, occurrence in wanted.visits]
