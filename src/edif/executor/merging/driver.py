"""The driver: runs shared passes for sealed jobs, each of which it serves over its seat.

A process of its own beside the jobs, forked from the zygote, so that it has the same weights and the same layout. It never
runs a job's code and never unpickles; what a job says is checked before it is used. It is closed in like the jobs are: should a
job ever take it over, it has gained the other jobs' rows of this model, and nothing of the host.
"""

import os
import select
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from edif.executor.merging.collecting import ByItself, Collector, Together
from edif.executor.merging.guest import Reply, Visit, Wanted
from edif.executor.merging.joint_pass import JointPass, Left
from edif.executor.merging.layout import Layout
from edif.executor.merging.request import Request, request_of
from edif.executor.merging.seat_memory import Region, memory_file, place
from edif.wire import pipe, seat
from edif.wire.link import Merging

_LEAST_PATIENCE_S = 0.05
"""So long at least a job may take over one visit while others wait for it; then it is put out of the pass."""
_PATIENCE_PASSES = 0.5
"""Else this part of what passes have taken lately."""
_MOST_PATIENCE_S = 1.0
"""And no longer in any case: in what passes have taken is what jobs took over their visits."""


class _Gone(Exception):
    """The seat is left, or what came over it is not in the protocol."""


class SealedParty:
    """A sealed job, as the driver sees it.

    Args:
        number: its seat's.
        sock: the driver's end of the seat.
    """

    def __init__(self, number: int, sock: socket.socket, layout: Layout, limits: "Bounds") -> None:
        self.number = number
        self.sock = sock
        self.asked: Request | None = None
        self.asked_at = 0.0
        self.patience_s = _LEAST_PATIENCE_S
        self.dropped = False
        self._layout = layout
        self._limits = limits
        self._wanted = Wanted([], [])
        self._counts: Sequence[int] = ()
        self._region: Region | None = None
        self._leaves: list[seat.Leaf] = []

    @property
    def request(self) -> Request:
        assert self.asked is not None
        return self.asked

    # -- as a party of a pass --------------------------------------------------------------------------
    def begin(self, counts: Sequence[int]) -> Wanted:
        self._counts = counts
        self.dropped = False
        return self._wanted

    def offer(self, visit: Visit) -> None:
        self._leaves, span = place(visit.tensors, visit.identities)
        try:
            region = self._room(span)
            region.counts[: len(self._counts)] = torch.tensor(self._counts, dtype=torch.int32)
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
            self.dropped = True  # its answer will be missing

    def answer(self) -> tuple[Reply, Wanted]:
        if self.dropped:
            raise Left
        message = self._receive()
        if message.leaves:
            self.dropped = True
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
        if not self.dropped:
            self.dropped = True
            self.say(seat.Over(failed=True, reason=reason))

    def _receive(self) -> seat.Answer:
        if not select.select([self.sock], [], [], self.patience_s)[0]:
            self.drop("it answered too slowly while others waited")
            raise Left
        try:
            message = self.hear()
        except _Gone:
            self.dropped = True
            raise Left from None
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
                self._region = Region(fd, start, span)
                pipe.send(self.sock, seat.Memory(start, span), (fd,))
            finally:
                os.close(fd)
        return self._region

    # -- what it says ----------------------------------------------------------------------------------
    def hear(self) -> seat.ToDriver:
        """The next message.

        Raises:
            _Gone: there will be none.
        """
        try:
            message, fds = pipe.receive(self.sock, seat.to_driver)
        except pipe.PipeError as error:
            raise _Gone from error
        for fd in fds:
            os.close(fd)
        return message

    def say(self, message: Any) -> None:
        """What cannot be said is not said: it has left, or does not listen, and its socket is full."""
        try:
            pipe.send(self.sock, message)
        except (pipe.PipeError, BlockingIOError):
            self.dropped = True

    def take(self, message: seat.Join, now: float) -> Request | None:
        """The request that it makes; None if the model must not be called with that."""
        request = self._limits.request(message)
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


class Bounds:
    """What a model can be called with at all. Out of them a pass would fail for everyone in it."""

    def __init__(self, module: Any, merging: Merging) -> None:
        config = module.config.get_text_config()
        self._ids = min(module.get_input_embeddings().num_embeddings, config.vocab_size)
        self._positions = getattr(config, "max_position_embeddings", None) or 1 << 30
        self._merging = merging

    def request(self, message: seat.Join) -> Request | None:
        """The request in a message, if it is one that a job's own process would make and the model can run."""
        size = message.rows * message.tokens * 8
        fields = (message.ids, message.mask, message.positions)
        if len(message.ids) != size or any(len(each) not in (0, size) for each in fields):
            return None
        ids, mask, positions = (
            torch.frombuffer(bytearray(each), dtype=torch.int64).view(message.rows, message.tokens)
            if each
            else None
            for each in fields
        )
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **message.options}
        request = request_of(
            message.generates, (), {name: each for name, each in given.items() if each is not None}
        )
        if request is None or request.rows > self._merging.rows or request.size > self._merging.tokens:
            return None
        return request if self._in_bounds(request) else None

    def _in_bounds(self, request: Request) -> bool:
        options = dict(request.options)
        length = request.tokens
        if request.generates:
            new = options.get("max_new_tokens")
            if not isinstance(new, int) or new < 1:
                return False  # the model's own default may be any number
            length += new
        return (
            length <= self._positions
            and _between(request.ids, self._ids)
            and (request.mask is None or _between(request.mask, 2))
            and (request.positions is None or _between(request.positions, self._positions))
            and all(
                isinstance(each, int) and 0 <= each < self._ids
                for name, each in options.items()
                if name.endswith("_token_id")
            )
        )


def _between(numbers: torch.Tensor, end: int) -> bool:
    return bool(((numbers >= 0) & (numbers < end)).all())


class Driver:
    """
    Args:
        sock: to the agent.
        model: the nnsight wrapper of the loaded model.
        layout: the model's.
        merging: the bounds of shared passes.
    """

    def __init__(self, sock: socket.socket, model: Any, layout: Layout, merging: Merging) -> None:
        self._sock = sock
        self._model = model
        self._layout = layout
        self._bounds = Bounds(model._module, merging)  # noqa: SLF001 - nnsight's own name
        self._parties: dict[int, SealedParty] = {}  # by descriptor of the socket
        self._collector: Collector[int] = Collector(merging)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def run(self) -> None:
        """Serve until the agent closes its end.

        Raises:
            PipeError: it did.
        """
        pipe.send(self._sock, pipe.Ready())
        while True:
            due = self._collector.due_in(time.monotonic())
            self._attend(None if due is None else due * 1000 + 1)
            while (step := self._collector.next(time.monotonic())) is not None:
                match step:
                    case Together(seats=seats):
                        self._run_pass([self._parties[each] for each in seats])
                    case ByItself(seat=each):
                        self._parties[each].say(seat.Alone())

    def _attend(self, wait_ms: float | None) -> None:
        for fd, _ in self._poll.poll(wait_ms):
            if fd == self._sock.fileno():
                self._admit()
            elif fd in self._parties:
                self._hear(fd)

    def _attend_meanwhile(self) -> None:
        """In the course of a pass: who would wait for long, since this one generates, runs alone."""
        self._attend(0)
        while (step := self._collector.next_beside(time.monotonic())) is not None:
            self._parties[step.seat].say(seat.Alone())

    def _admit(self) -> None:
        message, fds = pipe.receive(self._sock, pipe.to_driver)
        sock = socket.socket(fileno=fds[0])
        sock.setblocking(False)
        self._parties[sock.fileno()] = SealedParty(message.seat, sock, self._layout, self._bounds)
        self._collector.admitted(sock.fileno(), time.monotonic())
        self._poll.register(sock, select.POLLIN)

    def _hear(self, fd: int) -> None:
        party, now = self._parties[fd], time.monotonic()
        try:
            match party.hear():
                case seat.Join() as message:
                    request = party.take(message, now)
                    if request is None:
                        self._collector.asks_alone(fd, now)
                    else:
                        self._collector.joins(fd, request, now)
                case seat.AskAlone():
                    self._collector.asks_alone(fd, now)
                case seat.AloneOver():
                    self._collector.alone_over(fd, now)
                case seat.Answer():
                    pass  # to a visit that was not waited for any longer
        except BlockingIOError:
            pass
        except _Gone:
            self._leave(fd)

    def _leave(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._parties.pop(fd).sock.close()
        self._collector.left(fd)

    def _run_pass(self, parties: list[SealedParty]) -> None:
        joint = JointPass(self._model, self._layout, parties, self._attend_meanwhile)
        kind = parties[0].request.kind
        asked_at, rows = [each.asked_at for each in parties], [each.request.rows for each in parties]
        for party in parties:
            patience_s = max(_LEAST_PATIENCE_S, _PATIENCE_PASSES * self._collector.pass_s)
            party.patience_s = min(patience_s, _MOST_PATIENCE_S)
        failed = ""
        try:
            joint.run()
        except Exception as error:  # noqa: BLE001 - what a model raises on all rows together says nothing of one job
            failed = f"the shared pass failed: {type(error).__name__}: {error}"[:500]
        now = time.monotonic()
        self._collector.passed(kind, joint.seconds, len(parties))
        for party, since, own, tokens in zip(parties, asked_at, rows, joint.tokens, strict=True):
            pipe.send(self._sock, pipe.Shared(party.number, joint.rows, own, joint.seconds, now - since))
            if not party.dropped:
                party.say(seat.Over(bool(failed), failed, tokens))


def serve(sock: socket.socket, model: Any, layout: Layout, merging: Merging, threads: int) -> None:
    """Run shared passes until the pipe closes. Called in a fresh fork of the zygote."""
    torch.set_num_threads(threads)
    Driver(sock, model, layout, merging).run()
