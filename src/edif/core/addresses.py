"""What can be told from a network address alone."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether ``host`` (a name or address without port) can only mean this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
