"""What can be told from a network address alone."""

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def is_loopback(host: str) -> bool:
    """Whether ``host`` (a name or address without port) can only mean this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = parse_address(host)
    return address is not None and address.is_loopback


def parse_address(text: str) -> Address | None:
    """The address, an IPv4 one also where a socket for both families wrote it as IPv6; None if it is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """
    Raises:
        ValueError: one is no network.
    """
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def neighbourhood(text: str) -> str:
    """Whom limits per address take together: one IPv4 address, or the /64 of IPv6 that one customer is given."""
    address = parse_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return text if address is None else str(address)
