"""Where a request comes from, and what of a proxy's headers is believed."""

import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection

from edif.core.addresses import parse_networks
from edif.gateway.callers import caller
from edif.gateway.edge import EdgeConfig, base_url

PROXIES = parse_networks(["10.0.0.0/8", "::1"])


class EdgeOfConfigOnly:
    """In place of the routes' state, of which the base URL reads the configuration alone."""

    config = EdgeConfig(public_url=None, trusted_proxies=PROXIES, public_status=True, min_free_bytes=0)


def request(peer: str | None, **headers: str) -> HTTPConnection:
    app = Starlette()
    app.state.edge = EdgeOfConfigOnly()
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return HTTPConnection(
        {
            "type": "http",
            "app": app,
            "scheme": "http",
            "path": "/",
            "query_string": b"",
            "server": ("127.0.0.1", 80),
            "headers": raw,
            "client": peer and (peer, 1),
        }
    )


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.1", "198.51.100.9", "192.0.2.1"),
        ("10.0.0.1", "198.51.100.9", "198.51.100.9"),
        ("::ffff:10.0.0.1", "198.51.100.9", "198.51.100.9"),
        ("10.0.0.1", "203.0.113.5, 198.51.100.9, 10.2.3.4", "198.51.100.9"),
        ("::1", "2001:db8::1", "2001:db8::/64"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.9, ,", "10.0.0.1"),
        (None, "198.51.100.9", ""),
    ],
)
def test_the_nearest_address_that_is_no_proxy_counts(peer: str | None, forwarded: str, expected: str) -> None:
    assert caller(request(peer, x_forwarded_for=forwarded), PROXIES) == expected


def test_of_a_list_the_nearest_proxys_word_is_believed() -> None:
    """A client may send the header too; a proxy that appends to it writes behind."""
    headers = {
        "host": "inside",
        "x_forwarded_proto": "http, https",
        "x_forwarded_host": "evil.example, lab.example",
        "x_forwarded_prefix": "/edif/",
    }
    assert base_url(request("10.0.0.1", **headers)) == "https://lab.example/edif"
    assert base_url(request("192.0.2.1", **headers)) == "http://inside"
