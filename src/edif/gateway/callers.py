"""Where a request comes from, also behind a proxy."""

from starlette.requests import HTTPConnection

from edif.core.addresses import Network, neighbourhood, parse_address

_KNOWN = "edif.caller"


def know_caller(connection: HTTPConnection, user: str | None) -> None:
    """Note who sends this request; None is somebody whom no limit counts."""
    connection.scope[_KNOWN] = None if user is None else f"user {user}"


def counted_caller(connection: HTTPConnection, proxies: tuple[Network, ...]) -> str | None:
    """Whom limits count this request of: its user if one is known by now, else as :func:`caller`."""
    if _KNOWN in connection.scope:
        known: str | None = connection.scope[_KNOWN]
        return known
    return caller(connection, proxies)


def caller(connection: HTTPConnection, proxies: tuple[Network, ...]) -> str:
    """Whom limits per address count: the client's neighbourhood, which trusted proxies name in ``X-Forwarded-For``."""
    if not from_trusted(connection, proxies):
        return neighbourhood(_peer(connection))
    for named in reversed(connection.headers.get("x-forwarded-for", "").split(",")):
        if named.strip() and not _among(named.strip(), proxies):
            return neighbourhood(named.strip()[:100])
    return neighbourhood(_peer(connection))


def from_trusted(connection: HTTPConnection, proxies: tuple[Network, ...]) -> bool:
    """Whether the peer is a proxy whose ``X-Forwarded-*`` headers are believed."""
    return _among(_peer(connection), proxies)


def _peer(connection: HTTPConnection) -> str:
    return "" if connection.client is None else connection.client.host


def _among(host: str, networks: tuple[Network, ...]) -> bool:
    address = parse_address(host)
    return address is not None and any(address in network for network in networks)
