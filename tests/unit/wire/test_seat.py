"""What a job and the driver of shared passes say on a seat: arrives as it was, is bounded, and nothing else is heard."""

import os
import socket
import typing
from collections.abc import Iterator

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings

from edif.wire import pipe, seat
from tests.unit.helpers import open_descriptors
from tests.unit.wire.messages import messages

DECODERS = {
    seat.to_driver: typing.get_args(seat.ToDriver),
    seat.to_job: typing.get_args(seat.ToJob),
}
KINDS = [(decoder, kind) for decoder, kinds in DECODERS.items() for kind in kinds]
with_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
Sockets = tuple[socket.socket, socket.socket]


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    before = open_descriptors()
    ours, theirs = pipe.pair()
    with ours, theirs:
        yield ours, theirs
    assert open_descriptors() == before, "a descriptor leaked"


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
        for kind in vars(seat).values()
        if isinstance(kind, type) and issubclass(kind, seat._Message) and kind is not seat._Message
    }
    assert declared == {kind for _, kind in KINDS}


@with_fixture
@given(packet=st.binary(min_size=1, max_size=300), fds=st.integers(0, 3))
@example(packet=b"\x91" * 60_000, fds=1)
@example(packet=msgspec.msgpack.encode(["Over", False]), fds=2)
@example(packet=msgspec.msgpack.encode({"type": "AskAlone"}), fds=0)
def test_any_packet_is_a_message_or_a_pipe_error(sockets: Sockets, packet: bytes, fds: int) -> None:
    for decoder, kinds in DECODERS.items():
        socket.send_fds(sockets[0], [packet], [0] * fds)
        try:
            message, received = pipe.receive(sockets[1], decoder)
        except pipe.PipeError:
            continue
        for fd in received:
            os.close(fd)
        assert isinstance(message, kinds)


JOIN: list[object] = ["Join", False, 1, 1, b"\0" * 8, b"", b"", {}, [], []]


def changed(place: int, value: object) -> list[object]:
    return [*JOIN[:place], value, *JOIN[place + 1 :]]


@pytest.mark.parametrize(
    "packet",
    [
        changed(2, 0),
        changed(2, -1),
        changed(2, (1 << 16) + 1),
        changed(3, 0),
        changed(3, (1 << 20) + 1),
        changed(4, b"\0" * (seat.MAX_IDS_BYTES + 1)),
        changed(4, "ids"),
        changed(7, {str(number): 1 for number in range(33)}),
        changed(7, {"max_new_tokens": [1]}),
        changed(8, [[0, 0]] * (seat.MAX_WANTS + 1)),
        changed(8, [[-1, 0]]),
        changed(8, [[0, 2**31]]),
        changed(9, [-1]),
        changed(9, [0.5]),
        ["Answer", [-1], [], [], False],
        ["Answer", [2**31], [], [], False],
        ["Answer", [0] * 1025, [], [], False],
        ["Answer", [], [], [], "yes"],
        ["Alone"],
        ["Memory", 0, 0],
        ["Visit", 0, 0, 0, [], []],
    ],
    ids=lambda packet: str(packet)[:60],
)
def test_what_a_job_must_not_say_is_refused(packet: list[object]) -> None:
    data = msgspec.msgpack.encode(packet)
    with pytest.raises(msgspec.DecodeError):
        seat.to_driver.decode(data)


def test_a_job_may_say_the_rest() -> None:
    assert isinstance(seat.to_driver.decode(msgspec.msgpack.encode(JOIN)), seat.Join)
    largest = changed(4, b"\0" * seat.MAX_IDS_BYTES)
    message = seat.to_driver.decode(msgspec.msgpack.encode(largest))
    assert pipe.fits(message)
    assert not pipe.fits(seat.Join(False, 1, 1, b"\0" * 40_000, b"\0" * 40_000, b"", {}, [], []))
