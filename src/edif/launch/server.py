"""The gateway's listening socket and the HTTP server on it."""

import asyncio
import resource
import signal
import socket
import ssl
from collections.abc import Callable
from types import FrameType

import structlog
import uvicorn
from starlette.applications import Starlette

from edif.core import errors
from edif.core.addresses import parse_networks
from edif.core.errors import SetupError
from edif.gateway.connections import ConnectionLimits, Door, GuardedConfig
from edif.gateway.rates import Pace
from edif.settings import Settings

log = structlog.get_logger()

_UNSENT_BYTES = 128 * 1024
_OTHER_FILES = 512


def listen(settings: Settings) -> socket.socket:
    """
    Raises:
        SetupError: the address cannot be had.
    """
    host, port = settings.host, settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Every accepted connection inherits these two. The kernel ends one whose reader takes nothing (tcp(7)), whether
    # it downloads, listens for statuses or was closed on our side; and it holds no more of an answer than it can send.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _milliseconds(settings.stall_timeout_s))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    try:
        sock.bind((host, port))
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise SetupError(errors.PORT_TAKEN, f"Cannot listen on {host}:{port}: {error.strerror}.") from error
    return sock


def _milliseconds(seconds: float) -> int:
    """As the kernel takes them: at least one, for zero would be no limit."""
    return max(1, min(int(seconds * 1000), 2**31 - 1))


def own_url(settings: Settings, sock: socket.socket) -> str:
    """The URL by which processes of this machine reach the socket."""
    scheme = "http" if settings.tls_cert is None else "https"
    host, port = settings.host, sock.getsockname()[1]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"{scheme}://{reachable}:{port}"


class GatewayServer(uvicorn.Server):
    """uvicorn's server on one socket, with a context for TLS that it need not make from files.

    Attributes:
        on_terminate: called at the first SIGTERM, in place of ending at once; a second one, or SIGINT, ends it.
    """

    def __init__(self, config: GuardedConfig, tls: ssl.SSLContext | None, handshake_timeout_s: float) -> None:
        super().__init__(config)
        self._tls = tls
        self._handshake_timeout_s = handshake_timeout_s
        self.on_terminate: Callable[[], None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGTERM and self.on_terminate is not None:
            then, self.on_terminate = self.on_terminate, None
            asyncio.get_running_loop().call_soon_threadsafe(then)
            return
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets is not None
        config = self.config

        def protocol() -> asyncio.Protocol:
            return config.http_protocol_class(config=config, server_state=self.server_state, app_state={})  # type: ignore[call-arg]

        server = await asyncio.get_running_loop().create_server(
            protocol,
            sock=sockets[0],
            ssl=self._tls,
            ssl_handshake_timeout=None if self._tls is None else self._handshake_timeout_s,
        )
        self.servers = [server]
        self.started = True


def make_server(
    settings: Settings, app: Starlette, refusals: Pace, tls: ssl.SSLContext | None
) -> GatewayServer:
    """The server over the application; it is run on a socket of :func:`listen`."""
    door = Door(
        ConnectionLimits(
            header_timeout_s=settings.header_timeout_s,
            stall_timeout_s=settings.stall_timeout_s,
            body_bytes_per_s=settings.body_bytes_per_s,
            header_bytes=settings.header_limit_bytes,
            connections=settings.max_connections,
            connections_per_address=settings.max_connections_per_address,
            proxies=parse_networks(settings.trusted_proxies),
        ),
        refusals,
    )
    _allow_files(settings.max_connections)
    config = GuardedConfig(
        app,
        door,
        settings.send_files,
        log_config=None,
        access_log=False,
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        ws_max_size=4 * 1024 * 1024,
        ws_per_message_deflate=False,
        ws_ping_interval=settings.ping_s,
        ws_ping_timeout=settings.ping_s,
        timeout_graceful_shutdown=3,
    )
    return GatewayServer(config, tls, settings.header_timeout_s)


def _allow_files(connections: int) -> None:
    """Let the process open a descriptor for every connection, as far as the system lets it."""
    wanted = connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("gateway.few_descriptors", allowed=allowed, wanted=wanted)
