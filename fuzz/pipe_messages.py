"""The executor pipe: what a process that runs strangers' code can say to the agent, packet by packet and as a whole.

``packet`` is the parser alone, in all six directions. ``family`` is everything behind it: a real replica and a real
attempt, whose zygote and runner this file plays.
"""

import asyncio
import os
import socket
import tempfile
import typing
from contextlib import suppress
from itertools import count
from pathlib import Path

import msgspec

from edif.core import errors
from edif.core.job import AttemptOutcome, Extras
from edif.wire import link, pipe
from edif.worker.attempt import run_attempt
from edif.worker.replica import Replica, ReplicaCallbacks
from edif.worker.spool import Committed, SpoolFile
from edif.worker.transfer import Spooled
from fuzz.target import Target, open_descriptors, samples

FROM_RUNNER = typing.get_args(pipe.FromRunner)
DIRECTIONS: tuple[tuple[msgspec.msgpack.Decoder[typing.Any], tuple[type[msgspec.Struct], ...]], ...] = (
    (pipe.from_runner, FROM_RUNNER),
    (pipe.from_zygote, typing.get_args(pipe.FromZygote)),
    (pipe.to_keeper, (pipe.ToKeeper,)),
    (pipe.from_keeper, typing.get_args(pipe.FromKeeper)),
    (pipe.to_runner, typing.get_args(pipe.ToRunner)),
    (pipe.to_zygote, typing.get_args(pipe.ToZygote)),
    (pipe.to_driver, (pipe.ToDriver,)),
    (pipe.from_driver, typing.get_args(pipe.FromDriver)),
)
encode = msgspec.msgpack.encode


# -- one packet ----------------------------------------------------------------------------------------
def check_packet(data: bytes) -> bool:
    """A packet is a message that survives the journey, or a ``PipeError``; no descriptor is left open.

    The first byte says how many descriptors ride along, one more than allowed at most.
    """
    before = open_descriptors()
    ours, theirs = pipe.pair()
    with ours, theirs:
        heard = [_hears(ours, theirs, data, *direction) for direction in DIRECTIONS]
    assert open_descriptors() == before, "a descriptor leaked"
    return any(heard)


def _hears(
    ours: socket.socket,
    theirs: socket.socket,
    data: bytes,
    decoder: msgspec.msgpack.Decoder[typing.Any],
    kinds: tuple[type[msgspec.Struct], ...],
) -> bool:
    fds = _send(theirs, data)
    try:
        message, received = pipe.receive(ours, decoder)
    except pipe.PipeError:
        return False
    for fd in received:
        os.close(fd)
    assert len(received) == fds <= pipe.MAX_FDS
    assert isinstance(message, kinds)
    again = encode(message)
    # Bytes are compared and not values: NaN is not equal to itself.
    assert encode(decoder.decode(again)) == again, "a message changes on its journey"
    return True


def _send(sock: socket.socket, data: bytes) -> int:
    """Send all but the first byte, which counts the descriptors; answers how many went along."""
    fds = data[0] % (pipe.MAX_FDS + 2) if data else 0
    socket.send_fds(sock, [data[1:]], [sock.fileno()] * fds)
    return fds


def packet_seeds() -> list[bytes]:
    messages = samples([kind for _, kinds in DIRECTIONS for kind in kinds])
    seeds = [
        bytes([number % (pipe.MAX_FDS + 2)]) + encode(message) for number, message in enumerate(messages)
    ]
    return [*seeds, b"\0" + encode(pipe.Log("x" * pipe.MAX_TEXT))]


# -- a whole attempt -----------------------------------------------------------------------------------
SPEC = link.ModelSpec("org/name")
RUN = link.RunAttempt(
    "j1",
    1,
    "r1",
    cell=None,
    merge=False,
    compress=False,
    env={},
    extras=Extras(),
    payload_url="",
    result_url="",
    kept_url="",
    kept=[],
    time_limit_s=60.0,
    result_limit_bytes=1000,
    expanded_limit_bytes=1000,
    log_limit_bytes=1000,
)
SEALED = msgspec.structs.replace(RUN, cell=link.CellLimits(1, 1, 1, 1))
PID = 2**31 - 1  # nobody's
BORDER = b"\xc1"
"""Stands between two packets: the one byte that MessagePack never uses."""


def check_family(data: bytes) -> bool:
    """Whatever a runner says once it has its job, and however it dies, the attempt ends once, in valid messages, and
    leaves nothing.

    The first byte says how it dies: an exit code, or from 128 on a signal. The lowest bit of the second one seals the
    job in. The rest are packets with a border between any two, as :func:`check_packet` reads them.
    """
    death, seals = (*data[:2], 0, 0)[:2]
    status = death if death < 128 else -(death % 64 or 64)
    before = open_descriptors()
    broken: list[str] = []
    request = SEALED if seals & 1 else RUN
    with tempfile.TemporaryDirectory(prefix="edif-fuzz-", dir="/dev/shm") as folder:
        said = asyncio.run(_attempt(request, status, data[2:].split(BORDER), Path(folder), broken))
        assert not list(Path(folder).iterdir()), "a file is left"
    assert not broken, broken[0]
    assert open_descriptors() == before, "a descriptor leaked"
    return _judge(said)


def _judge(said: list[link.ToGateway]) -> bool:
    """What the agent says of the attempt is valid, about this attempt, within its limits, and ends with one end."""
    for message in said:
        again = link.encode(message)
        assert link.encode(link.decode_to_gateway(again)) == again
        assert isinstance(
            message, link.AttemptStarted | link.AttemptLog | link.AttemptSaving | link.AttemptEnded
        )
        assert (message.job, message.attempt) == (RUN.job, RUN.attempt)
    logged = sum(len(message.text) for message in said if isinstance(message, link.AttemptLog))
    assert logged <= RUN.log_limit_bytes + 200
    ended = said[-1]
    assert isinstance(ended, link.AttemptEnded)
    assert sum(isinstance(message, link.AttemptEnded) for message in said) == 1
    assert ended.error_code is None or ended.error_code in errors.catalogue()
    assert all(0 <= used < 2**63 for used in msgspec.structs.astuple(ended.usage)), ended.usage
    return ended.outcome is AttemptOutcome.COMPLETED


async def _attempt(
    request: link.RunAttempt, status: int, packets: list[bytes], folder: Path, broken: list[str]
) -> list[link.ToGateway]:
    """Play one attempt; ``broken`` gets what would have been an unhandled error of the agent."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: broken.append(repr(context)))
    said: list[link.ToGateway] = []

    def failed(sentence: str, died: bool) -> None:
        broken.append(sentence)

    replica = Replica("r1", SPEC, ReplicaCallbacks(_ignore, _ignore, failed), {}, request.cell, folder)
    ours, zygote = pipe.pair()
    ours.setblocking(False)
    zygote.setblocking(False)
    replica._zygote = ours
    loop.add_reader(ours, replica._on_zygote)
    pipe.send(zygote, pipe.Loaded(0.0, 0))
    running = asyncio.create_task(run_attempt(request, replica, _Transfer(folder), said.append))
    playing = asyncio.create_task(_play_zygote(zygote, request, packets, status))
    with zygote:
        try:
            await asyncio.wait({running, playing}, return_when=asyncio.FIRST_COMPLETED)
            said.append(await running)
        finally:
            playing.cancel()
            await asyncio.wait({playing})
            await replica.stop()
    assert not replica._pool._runners
    return said


async def _play_zygote(
    zygote: socket.socket, request: link.RunAttempt, packets: list[bytes], status: int
) -> None:
    """Fork runners as they are asked for; all tell the same story and die the same death."""
    async with asyncio.TaskGroup() as tasks:
        for number in count():
            asked, fds = await _heard(zygote, pipe.to_zygote)
            if isinstance(asked, pipe.ForkRunner):
                runner = socket.socket(fileno=fds[0])
                for fd in fds[1:]:  # its turn register
                    os.close(fd)
                tasks.create_task(_play_runner(zygote, runner, PID - number, request, packets, status))


async def _play_runner(
    zygote: socket.socket,
    runner: socket.socket,
    pid: int,
    request: link.RunAttempt,
    packets: list[bytes],
    status: int,
) -> None:
    with runner:
        runner.setblocking(False)
        pipe.send(zygote, pipe.Forked(pid))
        pipe.send(runner, pipe.Ready())
        with suppress(pipe.PipeError), await _conversation(runner, request) as job:
            await _speak(runner, job, packets)
    with suppress(pipe.PipeError):
        pipe.send(zygote, pipe.ChildExited(pid, status))


async def _conversation(runner: socket.socket, request: link.RunAttempt) -> socket.socket:
    """Where it speaks of its job, once it has that: of a sealed one on its own pipe."""
    if request.cell is not None:
        job = runner.dup()
    else:
        _, fds = await _heard(runner, pipe.to_runner)
        job = socket.socket(fileno=fds[0])
    job.setblocking(False)
    try:
        _, fds = await _heard(job, pipe.to_runner)
    except BaseException:
        job.close()
        raise
    for fd in fds:
        os.close(fd)
    return job


async def _heard(
    sock: socket.socket, decoder: msgspec.msgpack.Decoder[typing.Any]
) -> tuple[typing.Any, list[int]]:
    while True:
        with suppress(BlockingIOError):
            return pipe.receive(sock, decoder)
        await asyncio.sleep(0)


async def _speak(runner: socket.socket, job: socket.socket, packets: list[bytes]) -> None:
    """Each packet on the job's socket, every third one on the runner's own."""
    for number, packet in enumerate(packets):
        try:
            _send(runner if number % 3 == 2 else job, packet)
        except BlockingIOError:
            await asyncio.sleep(0)
        except OSError:
            return  # nobody listens any more


class _Spooled:
    """A result that nobody wants."""

    def __init__(self, path: Path) -> None:
        self.file = SpoolFile(path)

    async def commit(self) -> Committed:
        committed = self.file.finish()
        self.discard()
        return committed

    def discard(self) -> None:
        with suppress(OSError):
            self.file.finish()  # its followers have ended then
        self.file.discard()


class _Transfer:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def fetch(self, name: str, url: str) -> int:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def spool(self, name: str, url: str) -> Spooled:
        return _Spooled(self._folder / name.replace("/", "-"))

    def free_bytes(self) -> int:
        return 2**40


def _ignore(*_: object) -> None:
    pass


def family_seeds() -> list[bytes]:
    packets = [b"\0" + encode(message) for message in samples(FROM_RUNNER)]
    done, failed = (b"\0" + encode(message) for message in samples((pipe.Done, pipe.Failed), count=1))
    endings = [bytes([death, seals]) for death in (0, 1, 128 + 9, 128 + 11, 128 + 40) for seals in (0, 1)]
    stories = [[packet] for packet in packets] + [[], [done], [failed], [*packets, done], [failed, *packets]]
    return [
        endings[number % len(endings)] + BORDER.join(story) for number, story in enumerate(stories)
    ] + endings


TARGETS = {
    "packet": Target(check_packet, packet_seeds, most_bytes=pipe.MAX_PACKET + 16),
    "family": Target(check_family, family_seeds),
}
