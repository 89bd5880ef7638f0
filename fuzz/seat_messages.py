"""A seat: any bytes are a message, which survives the journey, or an error of the decoder.

Both directions: a job's process is a stranger's, and the driver may have been taken over by one.
"""

import typing

import msgspec

from edif.wire import seat
from fuzz.target import Target, samples

TO_DRIVER = typing.get_args(seat.ToDriver)
TO_JOB = typing.get_args(seat.ToJob)
encode = msgspec.msgpack.encode


def check_seat(data: bytes) -> bool:
    heard = _hears(seat.to_driver, TO_DRIVER, data)
    return _hears(seat.to_job, TO_JOB, data) or heard


def _hears(
    decoder: msgspec.msgpack.Decoder[typing.Any], kinds: tuple[type[msgspec.Struct], ...], data: bytes
) -> bool:
    try:
        message = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    assert isinstance(message, kinds)
    again = encode(message)
    # Bytes are compared and not values: NaN is not equal to itself.
    assert encode(decoder.decode(again)) == again, "a message changes on its journey"
    if isinstance(message, seat.Join):
        _check_bounds(message)
    return True


def _check_bounds(message: seat.Join) -> None:
    """What the driver computes with before it has looked closer."""
    assert message.rows >= 1
    assert message.tokens >= 1
    assert max(map(len, (message.ids, message.mask, message.positions))) <= seat.MAX_IDS_BYTES
    assert len(message.wants) <= seat.MAX_WANTS
    assert all(each.location >= 0 and each.occurrence >= 0 for each in message.wants)


def seat_seeds() -> list[bytes]:
    return [encode(message) for message in samples((*TO_DRIVER, *TO_JOB))]


TARGETS = {"seat": Target(check_seat, seat_seeds)}
