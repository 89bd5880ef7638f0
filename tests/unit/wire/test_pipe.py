"""The executor pipe, over real socket pairs: messages and descriptors arrive, nonsense does not, nothing leaks."""

import contextlib
import math
import os
import socket
import typing
from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings

from edif.wire import pipe
from tests.unit.helpers import open_descriptors
from tests.unit.wire.messages import messages

DECODERS = {
    pipe.to_zygote: typing.get_args(pipe.ToZygote),
    pipe.from_zygote: typing.get_args(pipe.FromZygote),
    pipe.to_keeper: (pipe.ToKeeper,),
    pipe.from_keeper: typing.get_args(pipe.FromKeeper),
    pipe.to_runner: typing.get_args(pipe.ToRunner),
    pipe.from_runner: typing.get_args(pipe.FromRunner),
    pipe.to_driver: (pipe.ToDriver,),
    pipe.from_driver: typing.get_args(pipe.FromDriver),
}
KINDS = [(decoder, kind) for decoder, kinds in DECODERS.items() for kind in kinds]
with_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

Sockets = tuple[socket.socket, socket.socket]


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    """A pair; whatever the test does, no descriptor may be left that was not there before."""
    before = open_descriptors()
    ours, theirs = pipe.pair()
    with ours, theirs:
        yield ours, theirs
    assert open_descriptors() == before, "a descriptor leaked"


# -- messages ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("decoder", "kind"), KINDS, ids=lambda value: getattr(value, "__name__", ""))
@with_fixture
@given(data=st.data())
def test_every_message_arrives_as_it_was(
    sockets: Sockets,
    decoder: msgspec.msgpack.Decoder[msgspec.Struct],
    kind: type[msgspec.Struct],
    data: st.DataObject,
) -> None:
    message = data.draw(messages(kind))
    pipe.send(sockets[0], message)
    assert pipe.receive(sockets[1], decoder) == (message, [])


def test_every_message_of_the_module_has_a_direction() -> None:
    declared = {
        kind
        for kind in vars(pipe).values()
        if isinstance(kind, type) and issubclass(kind, pipe._Message) and kind is not pipe._Message
    }
    assert declared == {kind for _, kind in KINDS}


def test_messages_keep_their_borders_and_order(sockets: Sockets) -> None:
    sent = [pipe.Log(f"line {number}") for number in range(20)]
    for message in sent:
        pipe.send(sockets[0], message)
    assert [pipe.receive(sockets[1], pipe.from_runner)[0] for _ in sent] == sent


# -- descriptors ---------------------------------------------------------------------------------------
def test_descriptors_ride_along_and_belong_to_the_receiver(sockets: Sockets, tmp_path: Path) -> None:
    path = tmp_path / "payload"
    path.write_bytes(b"what the file holds")
    with path.open("rb") as one, path.open("rb") as two:
        pipe.send(sockets[0], pipe.Ready(), (one.fileno(), two.fileno()))
    message, fds = pipe.receive(sockets[1], pipe.from_runner)
    assert message == pipe.Ready()
    assert len(fds) == 2
    for fd in fds:
        assert os.pread(fd, 100, 0) == b"what the file holds"
        assert not os.get_inheritable(fd), "a descriptor would pass to a program that is started"
        os.close(fd)


def test_as_many_descriptors_as_the_protocol_allows(sockets: Sockets) -> None:
    pipe.send(sockets[0], pipe.Ready(), [0] * pipe.MAX_FDS)
    _, fds = pipe.receive(sockets[1], pipe.from_runner)
    assert len(fds) == pipe.MAX_FDS
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("extra", [1, 2, 50])
def test_too_many_descriptors_are_refused_and_closed(sockets: Sockets, extra: int) -> None:
    pipe.send(sockets[0], pipe.Ready(), [0] * (pipe.MAX_FDS + extra))
    with pytest.raises(pipe.PipeError, match="longer than the protocol allows"):
        pipe.receive(sockets[1], pipe.from_runner)


NONSENSE = [
    b"\x00",
    b"\xc1",
    msgspec.msgpack.encode(["Nonsense"]),
    msgspec.msgpack.encode(["Load", "not for this end"]),
    msgspec.msgpack.encode(["Log", 7]),
    msgspec.msgpack.encode(["Log", "ab"]).replace(b"ab", b"\xff\xfe"),
    msgspec.msgpack.encode({"type": "Ready"}),
    b"\x91" * 60_000,
    b"Ready",
]


@pytest.mark.parametrize("packet", NONSENSE, ids=lambda packet: repr(packet[:20]))
def test_descriptors_that_come_with_nonsense_are_closed(sockets: Sockets, packet: bytes) -> None:
    socket.send_fds(sockets[0], [packet], [0, 1, 2])
    with pytest.raises(pipe.PipeError, match="not a message"):
        pipe.receive(sockets[1], pipe.from_runner)


@pytest.mark.parametrize(
    "packet",
    [
        ["Done", math.nan, 1],
        ["Done", -0.5, 1],
        ["Done", 1.0, -1],
        ["Done", 1.0, 2**63],
        ["Failed", "user_code", "No.", "", -1],
    ],
    ids=str,
)
def test_use_that_cannot_be_is_refused(sockets: Sockets, packet: list[object]) -> None:
    """The agent computes with it, and the gateway stores it."""
    socket.send_fds(sockets[0], [msgspec.msgpack.encode(packet)], [])
    with pytest.raises(pipe.PipeError, match="not a message"):
        pipe.receive(sockets[1], pipe.from_runner)


def test_nesting_beyond_pythons_depth_is_refused(sockets: Sockets) -> None:
    head = b"\x96" + msgspec.msgpack.encode("RunJob") + b"\x81" + msgspec.msgpack.encode("k")
    socket.send_fds(sockets[0], [head + b"\x91" * 60_000], [0])
    with pytest.raises(pipe.PipeError, match="not a message"):
        pipe.receive(sockets[1], pipe.to_runner)


@with_fixture
@given(packet=st.binary(min_size=1, max_size=300), fds=st.integers(0, 3))
@example(packet=NONSENSE[5], fds=1)
def test_any_packet_is_a_message_or_a_pipe_error(sockets: Sockets, packet: bytes, fds: int) -> None:
    """Whichever it is: the fixture sees that no descriptor is left."""
    for decoder in DECODERS:
        socket.send_fds(sockets[0], [packet], [0] * fds)
        with contextlib.suppress(pipe.PipeError):
            _, received = pipe.receive(sockets[1], decoder)
            for fd in received:
                os.close(fd)


# -- sizes ---------------------------------------------------------------------------------------------
def test_packet_of_the_largest_size_passes_and_one_byte_more_is_not_sent(sockets: Sockets) -> None:
    overhead = len(msgspec.msgpack.encode(pipe.Log("x" * 60_000))) - 60_000
    fits = "x" * (pipe.MAX_PACKET - overhead)
    pipe.send(sockets[0], pipe.Log(fits))
    assert pipe.receive(sockets[1], pipe.from_runner)[0] == pipe.Log(fits)
    with pytest.raises(pipe.PipeError, match="does not fit"):
        pipe.send(sockets[0], pipe.Log(fits + "x"))


def test_packet_that_is_too_long_is_refused_with_its_descriptors(sockets: Sockets) -> None:
    data = msgspec.msgpack.encode(pipe.Log("x" * (pipe.MAX_PACKET + 100)))
    socket.send_fds(sockets[0], [data], [0, 1])
    with pytest.raises(pipe.PipeError, match="longer than the protocol allows"):
        pipe.receive(sockets[1], pipe.from_runner)


# -- the end of the pipe -------------------------------------------------------------------------------
def test_receiving_from_a_closed_pipe(sockets: Sockets) -> None:
    sockets[0].close()
    with pytest.raises(pipe.PipeError, match="closed"):
        pipe.receive(sockets[1], pipe.from_runner)


def test_what_was_said_before_the_end_is_still_heard(sockets: Sockets) -> None:
    pipe.send(sockets[0], pipe.Log("last words"), [0])
    sockets[0].close()
    message, fds = pipe.receive(sockets[1], pipe.from_runner)
    assert message == pipe.Log("last words")
    os.close(fds[0])


def test_sending_into_a_closed_pipe(sockets: Sockets) -> None:
    sockets[1].close()
    with pytest.raises(pipe.PipeError, match="closed"):
        pipe.send(sockets[0], pipe.Ready())


def test_using_a_pipe_that_this_end_has_closed(sockets: Sockets) -> None:
    sockets[0].close()
    with pytest.raises(pipe.PipeError):
        pipe.send(sockets[0], pipe.Ready())
    with pytest.raises(pipe.PipeError):
        pipe.receive(sockets[0], pipe.from_runner)


def test_empty_packet_counts_as_the_end_and_leaks_nothing(sockets: Sockets) -> None:
    socket.send_fds(sockets[0], [b""], [0])
    with pytest.raises(pipe.PipeError, match="closed"):
        pipe.receive(sockets[1], pipe.from_runner)


def test_nothing_there_is_no_error_of_the_pipe(sockets: Sockets) -> None:
    sockets[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        pipe.receive(sockets[1], pipe.from_runner)


def test_full_pipe_does_not_block_a_non_blocking_sender(sockets: Sockets) -> None:
    sockets[0].setblocking(False)

    def flood() -> None:
        for _ in range(10_000):
            pipe.send(sockets[0], pipe.Log("x" * 60_000))

    with pytest.raises(BlockingIOError):
        flood()


def test_sockets_of_a_pair_do_not_pass_to_programs_that_are_started(sockets: Sockets) -> None:
    assert [sock.get_inheritable() for sock in sockets] == [False, False]


# -- clip ----------------------------------------------------------------------------------------------
ANY_TEXT = st.text(st.characters(), max_size=50)


@given(ANY_TEXT, st.integers(0, 70_000), ANY_TEXT)
@example("", 24 * 1024, "\U0001f600")
@example("\U0001f600", 0, "\ud800")
def test_two_clipped_texts_of_anything_fit_one_packet(unit: str, length: int, end: str) -> None:
    text = (unit or "\U0001f600") * (length // max(len(unit), 1)) + end
    clipped = pipe.clip(text)
    failed = pipe.Failed("x" * 60, clipped, clipped, 2**60)
    assert len(msgspec.msgpack.encode(failed)) <= pipe.MAX_PACKET


@given(st.text(max_size=300))
def test_short_text_is_left_as_it_is(text: str) -> None:
    assert pipe.clip(text) == text


def test_text_of_the_longest_size_is_left_as_it_is() -> None:
    text = "é" * (pipe.MAX_TEXT // 2)
    assert pipe.clip(text) == text
    assert pipe.clip(text + "x") != text + "x"


def test_long_text_keeps_its_beginning_and_end_and_tells_how_much_is_missing() -> None:
    text = "begin" + "é" * 100_000 + "end"
    clipped = pipe.clip(text)
    assert clipped.startswith("begin")
    assert clipped.endswith("end")
    head, _, rest = clipped.partition("\n... ")
    count, _, tail = rest.partition(" characters left out ...\n")
    assert len(head) + int(count) + len(tail) == len(text)


def test_what_utf8_cannot_say_becomes_a_question_mark() -> None:
    assert pipe.clip("a\ud800b") == "a?b"
