"""The executor pipe: what the node agent says to a replica's processes, and what they say back.

A replica is a process family. The *zygote* holds the model and forks; *runners*, its children, run user code; the
*driver*, another child, runs forward passes for several sealed runners together and never user code; the *keeper*, where the model computes on
a device, holds the weights there. Each has a ``SOCK_SEQPACKET`` socket pair to the agent, the keeper one to the zygote, on which one packet is one message and file descriptors may ride along.
Nothing is pickled; unknown kinds and packets over :data:`MAX_PACKET` are refused, for a runner executes strangers' code
and everything it says is hearsay.

A *sealed* runner serves one job, on its own socket. A *shared* one is handed a socket for each job that it is to run
(:class:`Enter`), several at once if traces may be merged; on its own socket it says how it is itself.
"""

import array
import socket
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec

from edif.core.job import MAX_USED, Extras
from edif.wire.link import CellLimits, Merging, ModelSpec

MAX_PACKET = 64 * 1024
MAX_TEXT = 24 * 1024
"""Longest text of one message, in bytes of UTF-8: a packet holds two such texts and the rest of a message."""
MAX_FDS = 2 + MAX_USED
FORK_FDS = 2
"""Of a fork: its socket, and its seat or its turn register."""


class PipeError(Exception):
    """The peer closed the pipe, or said something that is not in this protocol."""


class _Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    pass


Seconds = Annotated[float, msgspec.Meta(ge=0)]
"""Not NaN either: what is computed with that is NaN too, and so would be what the agent measured itself."""
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


# -- agent to zygote -----------------------------------------------------------------------------------
class Load(_Message, frozen=True):
    """Said once, first: what to load, and how its traces will be merged, if they will."""

    model: ModelSpec
    merging: Merging | None


class ForkRunner(_Message, frozen=True):
    """Fork a runner; its socket rides along, and behind it a shared one's :mod:`~edif.wire.turn_register`.

    With a ``cell`` it is closed in, in the empty folder ``scratch``, and serves one job. Then a second descriptor may ride
    along, its seat: the other end goes to the driver with :class:`Admit`.

    With ``prepares`` it spends some more of a processor before it is ready, so that its job takes less time; all in all that is more.
    """

    cell: CellLimits | None
    scratch: str
    prepares: bool = True


class ForkDriver(_Message, frozen=True):
    """Fork the driver, of which there is one; its socket rides along."""

    merging: Merging


class KillChild(_Message, frozen=True):
    pid: int


ToZygote = Load | ForkRunner | ForkDriver | KillChild


# -- zygote to agent -----------------------------------------------------------------------------------
class Loading(_Message, frozen=True):
    stage: str


class Loaded(_Message, frozen=True):
    load_s: float
    weight_bytes: int


class Mergeable(_Message, frozen=True):
    """Said before :class:`Loaded`, if traces may be merged at all: how shared passes of this model compare with a job's own.

    Attributes:
        difference: the largest at equal lengths, as :class:`~edif.wire.link.Merging` measures its tolerance.
        why_not: why none of its traces will be merged; empty if they will.
        padded_difference: the largest of rows with padding; None if it was not measured.
        why_unpadded: where padding was to be measured, why passes are not padded; empty if they are, or if it was not to be.
    """

    difference: Annotated[float, msgspec.Meta(ge=0)]
    why_not: str
    padded_difference: Annotated[float, msgspec.Meta(ge=0)] | None = None
    why_unpadded: str = ""


class LoadFailed(_Message, frozen=True):
    sentence: str


class Forked(_Message, frozen=True):
    pid: int


class ChildExited(_Message, frozen=True):
    """``status`` is the exit code, or minus the signal that ended it."""

    pid: int
    status: int


FromZygote = Loading | Mergeable | Loaded | LoadFailed | Forked | ChildExited


# -- zygote to keeper, and back -------------------------------------------------------------------------
class PutRight(_Message, frozen=True):
    """Put back what has changed of the weights on the device. No other process is at it."""


class Held(_Message, frozen=True):
    """Said once, first, unless it is :class:`LoadFailed`: the weights are on the device. What others find them by, and the descriptors for that ride along."""

    handle: bytes


class WasPutRight(_Message, frozen=True):
    """The answer to :class:`PutRight`. ``restored_bytes`` were not as they should be."""

    restored_bytes: Count


ToKeeper = PutRight
FromKeeper = Held | LoadFailed | WasPutRight


# -- agent to runner and driver ------------------------------------------------------------------------
class Enter(_Message, frozen=True):
    """To a shared runner: one more job; its socket rides along, on which :class:`RunJob` and all about it is said.

    In the runner's turn register its number is how many have entered with it.
    """


class Admit(_Message, frozen=True):
    """To the driver: a job begins; its seat rides along. The seat is left when its other end closes.

    Attributes:
        seat: a number of its own, by which the driver speaks of it.
    """

    seat: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class RunJob(_Message, frozen=True):
    """Run one job.

    Descriptors ride along: of the payload (read only), of the result (write), and of what each job in ``extras.uses`` keeps
    (read only), in that order. With ``merge`` its traces may share forward passes.
    """

    env: dict[str, Any]
    compress: bool
    extras: Extras
    result_limit_bytes: int
    expanded_limit_bytes: int
    log_limit_bytes: int
    merge: bool


class Room(_Message, frozen=True):
    """The answer to :class:`Keep`; one descriptor rides along, to which what is kept is written."""


ToRunner = RunJob | Room | Enter
ToDriver = Admit


# -- runner to agent -----------------------------------------------------------------------------------
class Log(_Message, frozen=True):
    text: str


class Saving(_Message, frozen=True):
    """User code is done, and its result is large enough that writing it takes a while."""


class Keep(_Message, frozen=True):
    """User code is done, and keeps values on the fabric: where are they to be written? Said at most once for a job."""


class Done(_Message, frozen=True):
    """The result is written. ``save_s``, wall seconds, and ``tokens`` are hearsay, and nobody is charged by them.

    So are ``packed``, that it is in the form of :mod:`edif.wire.packed`, and how many tensors were ``rounded``.
    """

    save_s: Seconds
    tokens: Count
    packed: bool = False
    rounded: Count = 0


class Failed(_Message, frozen=True):
    """The job failed. ``sentence`` (and a traceback in it) is for the user who sent the job."""

    code: str
    sentence: str
    next_step: str
    tokens: Count


class Begun(_Message, frozen=True):
    """Of a job in a shared runner: its turn has come, and its time runs from now on."""


class RunAlone(_Message, frozen=True):
    """The job met something that a shared pass does not offer. It has ended without a result, and is to be run again from its
    beginning, without ``merge``: nothing of this try counts but what it printed. ``reason`` is for the log.
    """

    reason: str


class Shared(_Message, frozen=True):
    """One of several jobs has had its part in a forward pass with rows of all of them. The pass may go on without it.

    Attributes:
        seat: whose; 0 on a job's own socket.
        rows: of all of them.
        own_rows: of this one.
        seconds: wall time of the pass, until this one's part was over.
        waited_s: wall time since this one asked for it, the pass included.
    """

    seat: Count
    rows: Count
    own_rows: Count
    seconds: Seconds
    waited_s: Seconds


class Ready(_Message, frozen=True):
    """The runner is clean and can take a job; the driver has begun."""


class Tainted(_Message, frozen=True):
    """The runner finds that the last job left something behind that it cannot undo; it wants to be replaced."""

    reason: str


FromRunner = Log | Saving | Keep | Done | Failed | Ready | Tainted | Begun | RunAlone | Shared
FromDriver = Ready | Shared

_encoder = msgspec.msgpack.Encoder()
to_zygote: msgspec.msgpack.Decoder[ToZygote] = msgspec.msgpack.Decoder(ToZygote)
from_zygote: msgspec.msgpack.Decoder[FromZygote] = msgspec.msgpack.Decoder(FromZygote)
to_runner: msgspec.msgpack.Decoder[ToRunner] = msgspec.msgpack.Decoder(ToRunner)
from_runner: msgspec.msgpack.Decoder[FromRunner] = msgspec.msgpack.Decoder(FromRunner)
to_driver: msgspec.msgpack.Decoder[ToDriver] = msgspec.msgpack.Decoder(ToDriver)
from_driver: msgspec.msgpack.Decoder[FromDriver] = msgspec.msgpack.Decoder(FromDriver)

to_keeper: msgspec.msgpack.Decoder[ToKeeper] = msgspec.msgpack.Decoder(ToKeeper)
from_keeper: msgspec.msgpack.Decoder[FromKeeper] = msgspec.msgpack.Decoder(FromKeeper)

M = TypeVar("M")


def pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair of packet sockets, closed on exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def fits(message: msgspec.Struct) -> bool:
    """Whether it is short enough to be sent."""
    return len(_encoder.encode(message)) <= MAX_PACKET


def send(sock: socket.socket, message: msgspec.Struct, fds: Sequence[int] = ()) -> None:
    """Send one message, with descriptors that the receiver gets as its own.

    Raises:
        PipeError: the peer is gone, or the message is too large.
    """
    data = _encoder.encode(message)
    if len(data) > MAX_PACKET:
        raise PipeError(f"a message of {len(data)} bytes does not fit a packet")
    try:
        socket.send_fds(sock, [data], list(fds))
    except BlockingIOError:
        raise
    except OSError as error:
        raise PipeError("the peer closed the pipe") from error


def receive(sock: socket.socket, decoder: msgspec.msgpack.Decoder[M]) -> tuple[M, list[int]]:
    """Receive one message and its descriptors, which the caller now owns.

    Raises:
        PipeError: end of the pipe, a truncated packet, or an unknown message.
        BlockingIOError: nothing there, on a non-blocking socket.
    """
    fd_size = array.array("i").itemsize
    try:
        data, ancillary, flags, _ = sock.recvmsg(
            MAX_PACKET, socket.CMSG_SPACE(MAX_FDS * fd_size), socket.MSG_CMSG_CLOEXEC
        )
    except BlockingIOError:
        raise
    except OSError as error:
        raise PipeError("the peer closed the pipe") from error
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fd_size])
    owned = list(fds)
    if not data:
        _close(owned)
        raise PipeError("the peer closed the pipe")
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        _close(owned)
        raise PipeError("a packet was longer than the protocol allows")
    try:
        return decoder.decode(data), owned
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _close(owned)
        raise PipeError(f"not a message of this protocol: {error}") from error


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        socket.close(fd)


def clip(text: str) -> str:
    """Make ``text`` surely fit one packet: the middle is left out, and what UTF-8 cannot say becomes ``?``."""
    data = text.encode("utf-8", "replace")
    if len(data) <= MAX_TEXT:
        return data.decode()
    half = MAX_TEXT // 2 - 32  # leaves room for the notice
    head, tail = data[:half].decode(errors="ignore"), data[-half:].decode(errors="ignore")
    return f"{head}\n... {len(text) - len(head) - len(tail)} characters left out ...\n{tail}"
