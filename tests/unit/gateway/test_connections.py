"""The count of connections; what the protocol classes do with it is tested over sockets, in tests/fabric."""

import pytest

from edif.core import errors
from edif.core.addresses import parse_networks
from edif.core.errors import OverLimit
from edif.gateway.connections import ConnectionLimits, Door
from edif.gateway.rates import Pace
from tests.unit.helpers import refusal_of


@pytest.fixture
def door() -> Door:
    return Door(
        ConnectionLimits(
            header_timeout_s=1,
            stall_timeout_s=1,
            body_bytes_per_s=1,
            header_bytes=1000,
            connections=5,
            connections_per_address=2,
            proxies=parse_networks(["10.0.0.0/8"]),
        ),
        Pace(10),
    )


def let_in(door: Door, host: str) -> bool:
    kind = refusal_of(lambda: door.enter(host), error=OverLimit)
    assert kind in (None, errors.CONNECTIONS_FULL)
    return kind is None


def test_one_address_has_so_many_and_others_theirs(door: Door) -> None:
    assert [let_in(door, "192.0.2.1") for _ in range(3)] == [True, True, False]
    assert let_in(door, "192.0.2.2")
    door.leave("192.0.2.1")
    assert let_in(door, "192.0.2.1")


def test_addresses_of_one_customer_count_as_one(door: Door) -> None:
    assert [let_in(door, f"2001:db8:1:2::{number}") for number in range(3)] == [True, True, False]
    assert let_in(door, "2001:db8:1:3::1")


def test_a_proxy_stands_for_many_but_not_for_more_than_all(door: Door) -> None:
    assert [let_in(door, "::ffff:10.0.0.1") for _ in range(6)] == [True] * 5 + [False]
    assert not let_in(door, "192.0.2.1")


def test_nothing_is_remembered_of_who_left(door: Door) -> None:
    for number in range(1000):
        door.enter(f"192.0.2.{number}")
        door.leave(f"192.0.2.{number}")
    assert not door._from
    assert let_in(door, "192.0.2.1")
