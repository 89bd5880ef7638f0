"""What is told from an address: whom limits take together, and what a socket for both families writes."""

import pytest

from edif.core.addresses import neighbourhood, parse_address, parse_networks


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("unix", "unix"),
        ("", ""),
    ],
)
def test_whom_limits_take_together(address: str, expected: str) -> None:
    assert neighbourhood(address) == expected


def test_an_address_of_a_socket_for_both_families_is_in_its_network() -> None:
    (network,) = parse_networks(["10.0.0.0/8"])
    assert parse_address("::ffff:10.1.2.3") in network
    assert parse_address("::1") not in network
    assert parse_address("no address") is None
