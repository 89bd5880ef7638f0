"""Answers to refused requests leave at a bounded rate, so that what one caller does wrong takes little time from others.

Only a refusal waits; what is done for the same caller is answered at once. ``docs/decisions/0011-the-edge.md``
says what a flood costs with and without.
"""

import asyncio
import contextlib
import time

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edif.core.addresses import Network
from edif.gateway.callers import counted_caller
from edif.gateway.rates import Pace

_STARTS = ("http.response.start", "websocket.http.response.start")


class PacedRefusals:
    """ASGI middleware: holds each answer of status 4xx back for as long as its caller's pace says.

    Args:
        proxies: networks of proxies that name the client's address.
    """

    def __init__(self, app: ASGIApp, pace: Pace, proxies: tuple[Network, ...]) -> None:
        self._app = app
        self._pace = pace
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def paced(message: Message) -> None:
            if message["type"] in _STARTS and 400 <= message["status"] < 500:
                await self._wait(scope, receive)
            await send(message)

        await self._app(scope, receive, paced)

    async def _wait(self, scope: Scope, receive: Receive) -> None:
        caller = counted_caller(HTTPConnection(scope), self._proxies)
        if caller is not None:
            wait_s = self._pace.wait_s(caller, time.monotonic())
            if wait_s > 0:
                await _hold(wait_s, scope, receive)


async def _hold(seconds: float, scope: Scope, receive: Receive) -> None:
    """Wait, but not for a client that has gone: what is kept for one answer costs others time while it waits."""
    if scope["type"] != "http":
        await asyncio.sleep(seconds)
        return
    ends = time.monotonic() + seconds
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            # A body that is still on its way is left there: reading it here would let it come in at full speed.
            while (message := await receive())["type"] == "http.request" and not message.get("more_body"):
                pass
            if message["type"] == "http.request":
                await asyncio.sleep(ends - time.monotonic())
