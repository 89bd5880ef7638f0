"""The worker link: any bytes are a message, which survives the journey, or a ``DecodeError``.

Both directions, for either end may be the one that was taken over.
"""

import typing
from collections.abc import Callable

import msgspec

from edif.wire import link
from fuzz.target import Target, samples

TO_GATEWAY = typing.get_args(link.ToGateway)
TO_AGENT = typing.get_args(link.ToAgent)


def check_link(data: bytes) -> bool:
    heard = _hears(link.decode_to_gateway, TO_GATEWAY, data)
    return _hears(link.decode_to_agent, TO_AGENT, data) or heard


def _hears(
    decode: Callable[[bytes], link.ToGateway | link.ToAgent],
    kinds: tuple[type[msgspec.Struct], ...],
    data: bytes,
) -> bool:
    try:
        message = decode(data)
    except msgspec.DecodeError:
        return False
    assert isinstance(message, kinds)
    again = link.encode(message)
    # Bytes are compared and not values: NaN is not equal to itself.
    assert link.encode(decode(again)) == again, "a message changes on its journey"
    return True


def link_seeds() -> list[bytes]:
    return [msgspec.msgpack.encode(message) for message in samples((*TO_GATEWAY, *TO_AGENT))]


TARGETS = {"link": Target(check_link, link_seeds)}
