"""What a connection may cost before its request is known: how many there are, how long they take, how large they are.

uvicorn bounds none of this. Its protocol classes are extended here where they hear of bytes, heads and bodies; what
a request may do is decided in the routes. Readers that do not read are the kernel's to end (``launch/server.py``).
``docs/decisions/0011-the-edge.md`` says what each limit is against.
"""

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from edif.core import errors
from edif.core.addresses import Network, neighbourhood, parse_address
from edif.core.errors import EdifError, OverLimit, Refused
from edif.core.limits import SendFiles
from edif.gateway.rates import Pace
from edif.gateway.sending import Sender
from edif.telemetry.metrics import CONNECTIONS, REFUSED
from edif.wire.client_protocol import error_body

# uvicorn writes a line for each request that does not parse: a stranger could fill the disk. They are counted instead.
_log = logging.getLogger("uvicorn.error.requests")
_log.setLevel(logging.ERROR)
# What the end of the gateway cuts short is no fault, and of held answers and downloads there may be thousands.
_log.addFilter(lambda line: line.exc_info is None or not isinstance(line.exc_info[1], asyncio.CancelledError))

_MAX_HEADERS = 100
_MAX_LINE_BYTES = (
    8000  # of the address or of one header; the WebSocket library ends at 8192 without an answer
)
_SPANS_AFTER_ANSWER = 5  # a client that is refused early may send its body to the end before it reads why
_LINGER_S = 1.0  # for what a refused client still sends: closing on it would destroy the answer


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """
    Attributes:
        header_timeout_s: within this a request's head must be whole.
        stall_timeout_s: the span over which a body must keep its rate.
        body_bytes_per_s: that rate.
        header_bytes: size of a request's head.
        connections: open connections in all.
        connections_per_address: of them, from one neighbourhood.
        proxies: networks whose addresses stand for many clients.
    """

    header_timeout_s: float
    stall_timeout_s: float
    body_bytes_per_s: float
    header_bytes: int
    connections: int
    connections_per_address: int
    proxies: tuple[Network, ...] = ()


class Door:
    """Counts the open connections of a gateway, and the requests of each address that are refused unread."""

    def __init__(self, limits: ConnectionLimits, refusals: Pace) -> None:
        self.limits = limits
        self._refusals = refusals
        self._all = 0
        self._from: Counter[str] = Counter()

    def enter(self, host: str) -> None:
        """Count one in.

        Raises:
            OverLimit: there are too many; this one is not counted.
        """
        if self._all >= self.limits.connections:
            raise OverLimit(
                errors.CONNECTIONS_FULL,
                f"This gateway has all of its {self.limits.connections} connections open.",
            )
        here = neighbourhood(host)
        if self._from[here] >= self.limits.connections_per_address and not self._stands_for_many(host):
            raise OverLimit(
                errors.CONNECTIONS_FULL,
                f"There are {self.limits.connections_per_address} connections from {here} open, the most for one address.",
            )
        self._all += 1
        CONNECTIONS.inc()
        self._from[here] += 1

    def leave(self, host: str) -> None:
        here = neighbourhood(host)
        self._all -= 1
        CONNECTIONS.dec()
        self._from[here] -= 1
        if not self._from[here]:
            del self._from[here]

    def refusal_waits_s(self, host: str) -> float:
        """How long the answer to a request waits that is refused before it is read; it is counted."""
        if self._stands_for_many(host):
            return 0.0
        return self._refusals.wait_s(neighbourhood(host), time.monotonic())

    def _stands_for_many(self, host: str) -> bool:
        address = parse_address(host)
        return address is not None and any(address in network for network in self.limits.proxies)


class GuardedConfig(uvicorn.Config):
    """uvicorn's configuration with the door that every connection passes, and who sends files on them."""

    def __init__(self, app: Any, door: Door, send_files: SendFiles = SendFiles.AUTO, **options: Any) -> None:
        super().__init__(app, http=GuardedHttp, ws=GuardedSocket, **options)
        self.door = door
        self.sender = Sender(send_files)


class _Phase(Enum):
    HEAD = auto()
    """A request's first bytes are awaited or its head is incomplete."""
    BODY = auto()
    """The head is whole, the body is not."""
    WHOLE = auto()
    """The request is whole; the answer may still be on its way."""
    REFUSED = auto()
    """This connection has had its last answer; what it sends is thrown away."""


class _HeadRefused(Exception):
    """Ends the parser from within; uvicorn then asks for the answer to a request that does not parse."""


class GuardedHttp(HttpToolsProtocol):
    """One HTTP connection."""

    def __init__(self, config: GuardedConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.logger = _log
        self._door = config.door
        self._sender = config.sender
        self._limits = config.door.limits
        self._inside = False
        self._phase = _Phase.HEAD
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._unparsed_bytes = 0
        self._body_bytes = 0
        self._spans_after_answer = 0
        self._refusal: EdifError | None = None
        self._answering: RequestResponseCycle | None = None
        """Whose answer is next; ``cycle`` is of the request that came last."""
        self._last_words: EdifError | None = None

    # -- the connection --------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        try:
            self._door.enter(_host(self))
        except OverLimit as error:
            self._refuse(error)
        else:
            self._inside = True
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._inside:
            self._inside = False
            self._door.leave(_host(self))
        if self._answering is not None:
            _give_up(
                self._answering
            )  # uvicorn tells only the last request, and an answer to this one would be a crash
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self._stop_timer()
        self._inside = False  # the socket that takes over counts itself out
        super().handle_websocket_upgrade()

    def data_received(self, data: bytes) -> None:
        if self._phase is _Phase.REFUSED:
            return
        if self._phase is _Phase.WHOLE and self._answered:
            self._expect_head()
        before = self._phase
        super().data_received(data)
        if self._phase is _Phase.HEAD and before is _Phase.HEAD:
            self._unparsed_bytes += len(data)
            if self._unparsed_bytes > self._limits.header_bytes:
                self._refuse(self._head_too_large())
        elif self._phase is _Phase.BODY and self._timer is None:
            self._watch_body()

    @property
    def _answered(self) -> bool:
        """Whether no answer is owed: none was asked for, or the last one is complete."""
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]  # None at first

    # -- heads -----------------------------------------------------------------------------------------
    def _expect_head(self) -> None:
        self._phase = _Phase.HEAD
        self._head_bytes = self._unparsed_bytes = 0
        self._start_timer(self._limits.header_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._timer = None
        if self._answered:
            self._refuse(
                Refused(
                    errors.REQUEST_TIMEOUT,
                    f"The request's head was not whole after {self._limits.header_timeout_s:g} s.",
                )
            )
        else:  # of a request sent before the last one was answered: its time begins with that answer
            self._start_timer(self._limits.header_timeout_s, self._head_is_late)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._phase is not _Phase.HEAD:
            self._expect_head()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > _MAX_LINE_BYTES:
            self._stop_parser(
                Refused(errors.URL_TOO_LONG, f"The request's address is longer than {_MAX_LINE_BYTES} bytes.")
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        line = len(name) + len(value) + 4
        self._head_bytes += line
        if (
            line > _MAX_LINE_BYTES
            or self._head_bytes > self._limits.header_bytes
            or len(self.headers) > _MAX_HEADERS
        ):
            self._stop_parser(self._head_too_large())

    def _head_too_large(self) -> EdifError:
        return Refused(
            errors.HEADERS_TOO_LARGE,
            f"The request's head has more than {self._limits.header_bytes} bytes, {_MAX_HEADERS} headers, "
            f"or {_MAX_LINE_BYTES} bytes in one of them.",
        )

    def _stop_parser(self, refusal: EdifError) -> None:
        self._refusal = refusal
        raise _HeadRefused

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when the parser was stopped or understood nothing."""
        self._refuse(self._refusal or Refused(errors.REQUEST_MALFORMED, "The request is not HTTP/1.1."))

    # -- bodies ----------------------------------------------------------------------------------------
    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._phase = _Phase.BODY
        self._spans_after_answer = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_timer()
        self._phase = _Phase.WHOLE
        super().on_message_complete()

    def _watch_body(self) -> None:
        self._body_bytes = 0
        self._start_timer(self._limits.stall_timeout_s, self._check_body)

    def _check_body(self) -> None:
        self._timer = None
        self._spans_after_answer += self.cycle.response_complete
        if self._spans_after_answer > _SPANS_AFTER_ANSWER:
            self.transport.close()
        elif self._we_are_slow or self._body_bytes >= self._least_bytes:
            self._watch_body()
        elif self.cycle.response_complete:
            self.transport.close()
        else:
            self._refuse(
                Refused(
                    errors.REQUEST_TIMEOUT,
                    f"Of the request's body came {self._body_bytes} bytes in {self._limits.stall_timeout_s:g} s.",
                )
            )

    @property
    def _we_are_slow(self) -> bool:
        """Whether the client cannot send, as we do not read or have not yet asked for the body."""
        return self.flow.read_paused or self.cycle.waiting_for_100_continue

    @property
    def _least_bytes(self) -> float:
        return self._limits.body_bytes_per_s * self._limits.stall_timeout_s

    # -- answers ---------------------------------------------------------------------------------------
    def _refuse(self, error: EdifError) -> None:
        """Say why, where that can still be said, and end the connection; whole requests before it are answered first."""
        self._stop_timer()
        refused = self.cycle if self._phase is _Phase.BODY and not self._answered else None
        self._phase = _Phase.REFUSED
        REFUSED.labels(error.code).inc()
        if refused is not None and refused is self._answering:
            if refused.response_started:
                self.transport.close()
                return
            _give_up(refused)
            self._answering = None
        elif refused is not None:
            self.pipeline.remove(next(queued for queued in self.pipeline if queued[0] is refused))
        if self._owes_answer:
            self._last_words = error
        else:
            self._say(error)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, self._sender.offered(app, cycle))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._last_words is not None and not self.transport.is_closing() and not self._owes_answer:
            self._unset_keepalive_if_required()
            error, self._last_words = self._last_words, None
            self._say(error)

    @property
    def _owes_answer(self) -> bool:
        return self._answering is not None and not self._answering.response_complete

    def _say(self, error: EdifError) -> None:
        self.flow.resume_reading()
        # Who was not let in does not wait: there are too many connections already.
        wait_s = self._door.refusal_waits_s(_host(self)) if self._inside else 0.0
        if wait_s > 0:
            self._timer = self.loop.call_later(wait_s, self._answer_and_close, error)
        else:
            self._answer_and_close(error)

    def _answer_and_close(self, error: EdifError) -> None:
        self.transport.write(_answer(error, self.server_state.default_headers))
        self.loop.call_later(_LINGER_S, self.transport.close)

    # -- time ------------------------------------------------------------------------------------------
    def _start_timer(self, seconds: float, then: Any) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, then)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class GuardedSocket(WebSocketsSansIOProtocol):
    """One WebSocket; it was a :class:`GuardedHttp` until its handshake."""

    def __init__(self, config: GuardedConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self._door = config.door

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.leave(_host(self))
        super().connection_lost(exc)


def _give_up(cycle: RequestResponseCycle) -> None:
    """Let what works on this request know that nobody reads its answer."""
    cycle.disconnected = True
    cycle.message_event.set()


def _host(protocol: GuardedHttp | GuardedSocket) -> str:
    return "" if protocol.client is None else protocol.client[0]


def _answer(error: EdifError, default_headers: list[tuple[bytes, bytes]]) -> bytes:
    body = error_body(error)
    headers = [
        *default_headers,
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return STATUS_LINE[error.kind.http_status] + lines + b"\r\n" + body
