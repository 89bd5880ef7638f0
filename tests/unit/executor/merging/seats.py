"""A driver in a process of its own, an honest job in this one, and hostile ones that say what they like on their seats."""

import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import torch

from edif.executor.job import run_job
from edif.executor.keeping import Opened
from edif.executor.merging.driver import Driver
from edif.executor.merging.misfit import Misfit
from edif.executor.merging.sealed import SealedCompany
from edif.wire import pipe, seat
from edif.wire.link import Merging
from tests.unit.executor.merging.jobs import Ended, Program, Site, _forget, payload
from tests.unit.executor.merging.tiny import TOLERANCE, prompt

ALWAYS = Merging(rows=8, tokens=512, tolerance=TOLERANCE, alone_at_once=4, always=True)
Hostile = Callable[["Raw"], None]


class Raw:
    """A job's end of its seat, for whoever knows no manners."""

    def __init__(self, sock: socket.socket, place: Site) -> None:
        self.sock = sock
        self.place = place
        self.heard: list[Any] = []

    def location(self, name: str) -> int:
        number = self.place.layout.number(name)
        assert number is not None
        return number

    def bytes(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        with suppress(OSError):
            socket.send_fds(self.sock, [data], list(fds))

    def say(self, message: msgspec.Struct) -> None:
        with suppress(pipe.PipeError):
            pipe.send(self.sock, message)

    def join(self, *names: str, **changed: Any) -> None:
        """Ask for a pass like that of the honest job, at these locations."""
        ids = prompt(40)
        given: dict[str, Any] = {
            "generates": False,
            "rows": 1,
            "tokens": ids.shape[1],
            "ids": ids.numpy().tobytes(),
            "mask": b"",
            "positions": b"",
            "options": {},
            "wants": [seat.Want(self.location(name), 0) for name in names],
            "watched": [],
        }
        self.say(seat.Join(**{**given, **changed}))

    def hear(self, wait_s: float = 5.0) -> Any:
        """The next message, None if there is none."""
        if not select.select([self.sock], [], [], wait_s)[0]:
            return None
        try:
            message, fds = pipe.receive(self.sock, seat.to_job)
        except pipe.PipeError:
            return None
        for fd in fds:
            os.close(fd)
        self.heard.append(message)
        return message

    def visit(self) -> Any:
        """Wait for the next visit; None if there is none."""
        while (message := self.hear()) is not None and not isinstance(message, seat.Visit):
            if isinstance(message, seat.Over | seat.Alone):
                return None
        return message


class Room:
    """Seats at one driver."""

    def __init__(self, place: Site, agent: socket.socket, pid: int) -> None:
        self.place = place
        self.agent = agent
        self._pid = pid
        self._seats = 0

    def seat(self) -> socket.socket:
        ours, theirs = pipe.pair()
        self._seats += 1
        pipe.send(self.agent, pipe.Admit(self._seats), (theirs.fileno(),))
        theirs.close()
        return ours

    def run(self, program: Program, sock: socket.socket) -> Ended:
        """An honest job, as a sealed process runs it."""
        sent = payload(self.place.client, program)
        company = SealedCompany(sock, self.place.loaded.module, self.place.layout, self.place.untouched)
        saved: dict[str, Any] = {}
        misfit = ""
        try:
            saved = run_job(self.place.loaded, sent, self.place.loaded.plain_env, Opened({}), company)
        except Misfit as error:
            misfit = str(error)
        finally:
            _forget()
            sock.close()
        return Ended(saved, "", misfit, "", [], company.shared_passes, company.tokens)

    def beside(self, program: Program, *hostile: Hostile) -> Ended:
        """An honest job, with these who begin just before it."""
        raws = [Raw(self.seat(), self.place) for _ in hostile]
        sock = self.seat()
        threads = [
            threading.Thread(target=_leaving(act), args=(raw,))
            for act, raw in zip(hostile, raws, strict=True)
        ]
        for each in threads:
            each.start()
        try:
            return self.run(program, sock)
        finally:
            for each in threads:
                each.join()

    def shared(self) -> list[pipe.Shared]:
        """What the driver has told the agent so far."""
        told = []
        while select.select([self.agent], [], [], 0.2)[0]:
            message, _ = pipe.receive(self.agent, pipe.from_driver)
            assert isinstance(message, pipe.Shared)
            told.append(message)
        return told

    def is_up(self) -> bool:
        return os.waitpid(self._pid, os.WNOHANG) == (0, 0)


def _leaving(act: Hostile) -> Hostile:
    def run(raw: Raw) -> None:
        try:
            act(raw)
        finally:
            raw.sock.close()

    return run


@contextmanager
def room(place: Site, merging: Merging = ALWAYS) -> Iterator[Room]:
    agent, theirs = pipe.pair()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            signal.alarm(120)  # should the test be gone
            agent.close()
            torch.set_num_threads(1)
            Driver(theirs, place.model, place.layout, merging).run()
        except pipe.PipeError:
            code = 0
        finally:
            os._exit(code)
    theirs.close()
    made = Room(place, agent, pid)
    try:
        assert pipe.receive(agent, pipe.from_driver)[0] == pipe.Ready()
        yield made
        assert made.is_up()
    finally:
        agent.close()
        _, status = os.waitpid(pid, 0)
    assert status == 0
