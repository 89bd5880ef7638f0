"""The driver: runs shared passes for sealed jobs, each of which it serves over its seat.

A process of its own beside the jobs, forked from the zygote, so that it has the same weights and the same layout. It never
runs a job's code and never unpickles; what a job says is checked before it is used. It is closed in like the jobs are: should a
job ever take it over, it has gained the other jobs' rows of this model, and nothing of the host.
"""

import select
import socket
import time
from collections.abc import Callable
from typing import Any

import torch

from edif.executor.merging.bounds import Bounds
from edif.executor.merging.collecting import ByItself, Collector, Together
from edif.executor.merging.joint_pass import JointPass
from edif.executor.merging.layout import Layout
from edif.executor.merging.sealed_party import Gone, Patience, SealedParty
from edif.wire import pipe, seat
from edif.wire.link import Merging


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
        self._collector: Collector[int] = Collector(merging, layout.bucket)
        self._patience = Patience(0.0)
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
        """In the course of a pass, before the model is called: who would wait for long, since this one generates, runs alone."""
        self._patience.renew()
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
                case seat.AloneOver(used_us=used_us):
                    self._collector.alone_over(fd, now, None if used_us is None else used_us / 1e6)
                case seat.Answer():
                    pass  # to a visit that was not waited for any longer
        except BlockingIOError:
            pass
        except Gone:
            self._leave(fd)

    def _leave(self, fd: int) -> None:
        self._poll.unregister(fd)
        party = self._parties.pop(fd)
        party.end()
        party.sock.close()
        self._collector.left(fd)

    def _run_pass(self, parties: list[SealedParty]) -> None:
        joint = JointPass(self._model, self._layout, parties, self._attend_meanwhile)
        kind = parties[0].request.magnitude
        self._patience = Patience(self._collector.pass_s)
        for number, party in enumerate(parties):
            party.patience = self._patience
            party.settle = self._settling(party, joint, number)
        failed, before = "", time.process_time()
        try:
            joint.run()
        except Exception as error:  # noqa: BLE001 - what a model raises on all rows together says nothing of one job
            failed = f"the shared pass failed: {type(error).__name__}: {error}"[:500]
        self._collector.passed(kind, joint.seconds, len(parties), time.process_time() - before)
        for party in parties:
            party.end(failed)

    def _settling(self, party: SealedParty, joint: JointPass, number: int) -> Callable[[], int]:
        rows, since = party.request.rows, party.asked_at  # by then it may have asked for another

        def settle() -> int:
            waited_s = time.monotonic() - since
            pipe.send(self._sock, pipe.Shared(party.number, joint.rows, rows, joint.seconds, waited_s))
            return joint.tokens[number]

        return settle


def serve(sock: socket.socket, model: Any, layout: Layout, merging: Merging, threads: int) -> None:
    """Run shared passes until the pipe closes. Called in a fresh fork of the zygote."""
    torch.set_num_threads(threads)
    Driver(sock, model, layout, merging).run()
