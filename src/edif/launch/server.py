"""The gateway's listening socket and the HTTP server on it."""

import asyncio
import socket
import ssl

import uvicorn
from starlette.applications import Starlette

from edif.core import errors
from edif.core.errors import SetupError
from edif.settings import Settings

_HANDSHAKE_S = 10.0


def listen(settings: Settings) -> socket.socket:
    """
    Raises:
        SetupError: the address cannot be had.
    """
    host, port = settings.host, settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise SetupError(errors.PORT_TAKEN, f"Cannot listen on {host}:{port}: {error.strerror}.") from error
    return sock


def own_url(settings: Settings, sock: socket.socket) -> str:
    """The URL by which processes of this machine reach the socket."""
    scheme = "http" if settings.tls_cert is None else "https"
    host, port = settings.host, sock.getsockname()[1]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"{scheme}://{reachable}:{port}"


class GatewayServer(uvicorn.Server):
    """uvicorn's server on one socket, with a context for TLS that it need not make from files."""

    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self._tls = tls

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets is not None
        config = self.config

        def protocol() -> asyncio.Protocol:
            return config.http_protocol_class(config=config, server_state=self.server_state, app_state={})  # type: ignore[call-arg]

        server = await asyncio.get_running_loop().create_server(
            protocol,
            sock=sockets[0],
            ssl=self._tls,
            ssl_handshake_timeout=None if self._tls is None else _HANDSHAKE_S,
        )
        self.servers = [server]
        self.started = True


def make_server(settings: Settings, app: Starlette, tls: ssl.SSLContext | None) -> uvicorn.Server:
    """The server over the application; it is run on a socket of :func:`listen`."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        ws="websockets-sansio",
        ws_max_size=4 * 1024 * 1024,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=3,
    )
    return GatewayServer(config, tls)
