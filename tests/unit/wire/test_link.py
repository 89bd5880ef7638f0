"""The worker link: every message survives the journey, nothing else gets in."""

import contextlib
import typing

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import example, given

from edif.wire import link
from tests.unit.wire.messages import messages

TO_GATEWAY = typing.get_args(link.ToGateway)
TO_AGENT = typing.get_args(link.ToAgent)


@pytest.mark.parametrize("kind", TO_GATEWAY, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_what_an_agent_says_arrives_as_it_was(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    message = data.draw(messages(kind))
    assert link.decode_to_gateway(link.encode(message)) == message


@pytest.mark.parametrize("kind", TO_AGENT, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_what_the_gateway_says_arrives_as_it_was(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    message = data.draw(messages(kind))
    assert link.decode_to_agent(link.encode(message)) == message


def test_every_message_of_the_module_has_a_direction() -> None:
    bases = (link._ToGateway, link._ToAgent)
    declared = {
        kind
        for kind in vars(link).values()
        if isinstance(kind, type) and issubclass(kind, bases) and kind not in bases
    }
    assert declared == {*TO_GATEWAY, *TO_AGENT}


@pytest.mark.parametrize("kind", TO_GATEWAY, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_an_agent_does_not_take_what_is_for_the_gateway(
    kind: type[msgspec.Struct], data: st.DataObject
) -> None:
    with pytest.raises(msgspec.DecodeError):
        link.decode_to_agent(link.encode(data.draw(messages(kind))))


def _nested(depth: int) -> bytes:
    """A RunAttempt whose env is nested as deep as that."""
    head = b"".join(msgspec.msgpack.encode(part) for part in ("RunAttempt", "j", 1, "r", None, False, False))
    return b"\xdc\0\x11" + head + b"\x81" + msgspec.msgpack.encode("k") + b"\x91" * depth


GARBAGE = [
    b"",
    b"\x00",
    b"\xc1",
    b"[]",
    msgspec.msgpack.encode([]),
    msgspec.msgpack.encode({}),
    msgspec.msgpack.encode(["Nonsense", "a"]),
    msgspec.msgpack.encode(["ReplicaStopped"]),
    msgspec.msgpack.encode(["ReplicaStopped", 7]),
    msgspec.msgpack.encode(["StopReplica", None]),
    msgspec.msgpack.encode(["ReplicaStopped", "ab"]).replace(b"ab", b"\xff\xfe"),
    msgspec.msgpack.encode(["StopReplica", "ab"]).replace(b"ab", b"\xff\xfe"),
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\x91" * 100_000,
    _nested(100_000),
]


@pytest.mark.parametrize("data", GARBAGE, ids=lambda data: repr(data[:20]))
def test_garbage_is_refused_in_both_directions(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        link.decode_to_gateway(data)
    with pytest.raises(msgspec.DecodeError):
        link.decode_to_agent(data)


@given(data=st.binary(max_size=200))
@example(data=GARBAGE[10])
def test_any_bytes_are_a_message_or_a_decode_error(data: bytes) -> None:
    for decode, kinds in ((link.decode_to_gateway, TO_GATEWAY), (link.decode_to_agent, TO_AGENT)):
        with contextlib.suppress(msgspec.DecodeError):
            assert isinstance(decode(data), kinds)


@given(data=st.data(), at=st.integers(0, 400), bits=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_message_is_a_message_or_a_decode_error(
    data: st.DataObject, at: int, bits: int, cut: bool
) -> None:
    kind = data.draw(st.sampled_from((*TO_GATEWAY, *TO_AGENT)))
    whole = bytearray(link.encode(data.draw(messages(kind))))
    at %= len(whole)
    if cut:
        del whole[at:]
    else:
        whole[at] ^= bits
    for decode in (link.decode_to_gateway, link.decode_to_agent):
        with contextlib.suppress(msgspec.DecodeError):
            decode(bytes(whole))


def test_a_later_version_may_add_fields_at_the_end() -> None:
    """Messages are arrays: an added field is ignored by an older reader, a missing one with a default is filled."""
    assert link.decode_to_agent(msgspec.msgpack.encode(["StopReplica", "r1", "new"])) == link.StopReplica(
        "r1"
    )
