"""A replica whose zygote, runners and driver a test plays itself: real sockets and descriptors, no processes and no model."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edif.blobs.file_blobs import FileBlobs
from edif.blobs.store import payload_name
from edif.core.job import Extras
from edif.wire import link, pipe
from edif.wire.link import CellLimits, Merging, ModelSpec
from edif.wire.turn_register import TurnRegister
from edif.worker.attempt import run_attempt
from edif.worker.conversations import JobCallbacks
from edif.worker.replica import Replica, ReplicaCallbacks
from edif.worker.transfer import FolderTransfer
from fuzz.pipe_messages import RUN

MERGING = Merging(rows=4, tokens=64, tolerance=64.0, alone_at_once=1)
CELL = CellLimits(1, 1, 1, 1)
REQUEST = pipe.RunJob({}, False, Extras(), 1000, 1000, 1000, merge=True)
MERGEABLE = pipe.Mergeable(0.0, "")
PAYLOAD = b"payload"
_PATIENCE_S = 20.0


async def hear(sock: socket.socket, decoder: msgspec.msgpack.Decoder[Any]) -> tuple[Any, list[int]]:
    """The next message on this socket, and its descriptors."""
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            with suppress(BlockingIOError):
                return pipe.receive(sock, decoder)
            await asyncio.sleep(0.001)


async def settle() -> None:
    """Time for what has been said to be heard and acted on."""
    await asyncio.sleep(0.05)


@dataclass(eq=False)
class PlayedJob:
    """A job as its runner sees it."""

    sock: socket.socket
    request: pipe.RunJob
    fds: list[int]

    def say(self, *messages: msgspec.Struct) -> None:
        for message in messages:
            pipe.send(self.sock, message)

    async def room(self) -> int:
        """Ask where to write what it keeps."""
        self.say(pipe.Keep())
        answer, (fd,) = await hear(self.sock, pipe.to_runner)
        assert isinstance(answer, pipe.Room)
        self.fds.append(fd)
        return fd

    def write(self, data: bytes) -> None:
        """Some of its result."""
        os.write(self.fds[1], data)

    def close(self) -> None:
        self.sock.close()
        while self.fds:
            os.close(self.fds.pop())


@dataclass(eq=False)
class PlayedProcess:
    """A process that the replica has asked for."""

    pid: int
    request: pipe.ForkRunner | pipe.ForkDriver
    sock: socket.socket
    seat: socket.socket | None = None
    turn: TurnRegister | None = None
    jobs: list[PlayedJob] = field(default_factory=list)

    def say(self, message: msgspec.Struct) -> None:
        pipe.send(self.sock, message)

    async def next_job(self) -> PlayedJob:
        """Take the next job in; of a sealed one on its own socket, else on the one that comes with it."""
        sock = self.sock.dup()
        if isinstance(self.request, pipe.ForkRunner) and self.request.cell is None:
            sock.close()
            entered, fds = await hear(self.sock, pipe.to_runner)
            assert isinstance(entered, pipe.Enter)
            sock = socket.socket(fileno=fds[0])
        sock.setblocking(False)
        request, fds = await hear(sock, pipe.to_runner)
        assert isinstance(request, pipe.RunJob)
        job = PlayedJob(sock, request, fds)
        self.jobs.append(job)
        return job

    async def admitted(self) -> tuple[int, socket.socket]:
        """To a driver: the next seat, its number and our end of it."""
        admit, (fd,) = await hear(self.sock, pipe.to_driver)
        return admit.seat, socket.socket(fileno=fd)

    def has_word(self) -> bool:
        """Whether it has been told something that it has not heard yet."""
        try:
            self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        for job in self.jobs:
            job.close()
        self.sock.close()
        if self.seat is not None:
            self.seat.close()
        self.turn = None  # and with it what it maps


def _played(pid: int, asked: Any, fds: list[int]) -> PlayedProcess:
    sock = socket.socket(fileno=fds[0])
    sock.setblocking(False)
    if isinstance(asked, pipe.ForkRunner) and asked.cell is None:
        return PlayedProcess(pid, asked, sock, turn=TurnRegister(fds[1]))
    return PlayedProcess(pid, asked, sock, *(socket.socket(fileno=fd) for fd in fds[1:]))


class PlayedFamily:
    """What the zygote of ``replica`` is asked for is forked at once, and what is to be killed dies at once."""

    def __init__(self, replica: Replica, zygote: socket.socket, failures: list[str]) -> None:
        self.replica = replica
        self.zygote = zygote
        self.failures = failures
        self.there: dict[int, PlayedProcess] = {}
        self.runners: asyncio.Queue[PlayedProcess] = asyncio.Queue()
        self.drivers: asyncio.Queue[PlayedProcess] = asyncio.Queue()
        self._last_pid = 2**30  # nobody's

    async def play(self) -> None:
        while True:
            asked, fds = await self._next()
            if isinstance(asked, pipe.KillChild):
                self.end(asked.pid, -signal.SIGKILL)
                continue
            self._last_pid += 1
            process = _played(self._last_pid, asked, fds)
            self.there[process.pid] = process
            pipe.send(self.zygote, pipe.Forked(process.pid))
            (self.drivers if isinstance(asked, pipe.ForkDriver) else self.runners).put_nowait(process)

    async def _next(self) -> tuple[Any, list[int]]:
        while True:
            with suppress(BlockingIOError):
                return pipe.receive(self.zygote, pipe.to_zygote)
            await asyncio.sleep(0.001)

    def end(self, pid: int, status: int) -> None:
        if pid in self.there:
            self.there.pop(pid).close()
            pipe.send(self.zygote, pipe.ChildExited(pid, status))

    async def runner(self) -> PlayedProcess:
        """The next one that was asked for; it is ready."""
        return await self._ready(self.runners)

    async def shared(self) -> tuple[PlayedProcess, PlayedProcess]:
        """The two that a replica that merges begins with: that in which jobs run together, and that which stands by."""
        return await self.runner(), await self.runner()

    async def driver(self) -> PlayedProcess:
        """Likewise."""
        return await self._ready(self.drivers)

    async def _ready(self, asked: asyncio.Queue[PlayedProcess]) -> PlayedProcess:
        async with asyncio.timeout(_PATIENCE_S):
            process = await asked.get()
        process.say(pipe.Ready())
        await settle()
        return process

    def begin(
        self, job: "Heard", *, time_limit_s: float = 60.0, alone: bool = False
    ) -> asyncio.Task[pipe.Done]:
        """Have the replica run a job, shared or sealed as its family is."""
        return asyncio.create_task(
            self.replica.run(REQUEST, job.fds, job.callbacks, job.cell, time_limit_s, alone=alone)
        )


@dataclass(eq=False)
class Heard:
    """A job as its attempt sees it, with files to read from and write to."""

    cell: CellLimits | None = None
    logged: list[str] = field(default_factory=list)
    passes: list[pipe.Shared] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    fds: tuple[int, int] = (0, 1)

    @property
    def callbacks(self) -> JobCallbacks:
        return JobCallbacks(
            log=self.logged.append,
            saving=lambda: None,
            room=lambda: os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC),
            shared=self.passes.append,
            spent=lambda seconds, _: self.seconds.append(seconds),
        )


@asynccontextmanager
async def family(
    folder: Path,
    *,
    cell: CellLimits | None = None,
    merging: Merging | None = MERGING,
    mergeable: pipe.Mergeable | None = MERGEABLE,
    device: str = link.ON_PROCESSOR,
) -> AsyncIterator[PlayedFamily]:
    """A replica that has loaded, its family played. It is stopped in the end."""
    failures: list[str] = []
    callbacks = ReplicaCallbacks(lambda _: None, lambda *_: None, lambda said, _: failures.append(said))
    spec = ModelSpec("org/name", device=device)
    replica = Replica("r1", spec, callbacks, {}, cell, folder / "scratch", merging)
    ours, zygote = pipe.pair()
    ours.setblocking(False)
    zygote.setblocking(False)
    replica._zygote = ours
    asyncio.get_running_loop().add_reader(ours, replica._on_zygote)
    if mergeable is not None:
        pipe.send(zygote, mergeable)
    pipe.send(zygote, pipe.Loaded(0.0, 0))
    played = PlayedFamily(replica, zygote, failures)
    playing = asyncio.create_task(played.play())
    try:
        yield played
    finally:
        playing.cancel()
        await asyncio.wait({playing})
        await replica.stop()
        for process in played.there.values():
            process.close()
        zygote.close()


class PlayedAttempt:
    """An attempt on such a replica, its payload and result in a real blob folder."""

    def __init__(self, played: PlayedFamily, folder: Path, **fields: Any) -> None:
        self.said: list[link.ToGateway] = []
        self.blobs = FileBlobs(folder / "blobs", "a1")
        self.message = msgspec.structs.replace(RUN, merge=True, **fields)
        self.blobs.path(payload_name(RUN.job)).write_bytes(PAYLOAD)
        self.task = asyncio.create_task(
            run_attempt(self.message, played.replica, FolderTransfer(self.blobs), self.said.append)
        )

    @property
    def logged(self) -> str:
        return "".join(each.text for each in self.said if isinstance(each, link.AttemptLog))
