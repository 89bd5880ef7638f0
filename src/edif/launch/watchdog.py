"""A process whose event loop stands still is dead to everybody, and its supervisor does not see it: it ends by itself."""

import asyncio
import contextlib
import faulthandler
from collections.abc import AsyncIterator

PATIENCE_S = 120.0


@contextlib.asynccontextmanager
async def loop_watched(patience_s: float = PATIENCE_S) -> AsyncIterator[None]:
    """While entered: should the event loop stand still for so long, write what every thread does to stderr and end the process.

    A thread of the interpreter's own does that (``faulthandler``), without the lock that a hanging one may hold.
    """
    watching = asyncio.create_task(_put_off(patience_s))
    try:
        yield
    finally:
        watching.cancel()
        faulthandler.cancel_dump_traceback_later()


async def _put_off(patience_s: float) -> None:
    while True:
        faulthandler.dump_traceback_later(patience_s, exit=True)
        await asyncio.sleep(patience_s / 4)
