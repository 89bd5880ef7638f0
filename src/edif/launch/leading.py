"""Which of several gateways leads: the one that holds the record store. The others stand by."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TypeVar

import structlog

from edif.core import errors
from edif.core.errors import LeadLost, SetupError, StoreUnavailable
from edif.launch.data_folder import DataFolder
from edif.records.migrate import open_store
from edif.records.store import RecordStore
from edif.settings import Settings

log = structlog.get_logger()

T = TypeVar("T")

STANDBY_EVERY_S = 0.5
CHECK_EVERY_S = 2.0
GIVE_WAY_AFTER_S = 15.0
_HOLD_TRIES = 30
_HOLD_PAUSE_S = 0.1

_MAY_PASS = (errors.DATA_IN_USE, errors.LEAD_LOST, errors.STORE_UNREACHABLE)


@contextlib.asynccontextmanager
async def leading(settings: Settings, folder: DataFolder) -> AsyncIterator[RecordStore]:
    """The record store, for the gateway that leads; with ``standby``, as soon as no other one does.

    Raises:
        SetupError: another gateway leads and this one is not to wait, or the store cannot be used.
    """
    async with contextlib.AsyncExitStack() as stack:
        if settings.record_store is None:
            await _in_turn(partial(_hold, stack, folder), wait=settings.standby)
            records = await open_store(folder.root)
        else:
            url = settings.record_store.get_secret_value()
            records = await _in_turn(
                partial(open_store, folder.root, url, leading=True), wait=settings.standby
            )
        stack.push_async_callback(records.close)
        if settings.record_store is not None:
            await _hold_if_free(stack, folder)
        yield records


async def keep_leading(records: RecordStore, *, standby: bool) -> None:
    """Notice within seconds that another gateway leads.

    With ``standby`` a gateway that cannot reach the store for a while ends too: it may be the only one, and then agents
    and clients do better with another.

    Raises:
        SetupError: the lead is lost; whoever supervises this process starts it again.
    """
    reached = time.monotonic()
    while True:
        await asyncio.sleep(CHECK_EVERY_S)
        try:
            await records.check()
        except LeadLost as error:
            raise SetupError(
                error.kind, "Another gateway leads this fabric now; this one has ended.", ""
            ) from error
        except StoreUnavailable as error:
            silent_s = time.monotonic() - reached
            log.warning("gateway.store_unavailable", reason=error.sentence, for_s=round(silent_s, 1))
            if standby and silent_s > GIVE_WAY_AFTER_S:
                raise SetupError(
                    error.kind, f"The record store was away for {silent_s:.0f} s.", ""
                ) from error
        else:
            reached = time.monotonic()


async def _in_turn(take: Callable[[], Awaitable[T]], *, wait: bool) -> T:
    """What ``take`` gives, tried again while it may pass that it cannot."""
    reason = ""
    while True:
        try:
            return await take()
        except (SetupError, LeadLost) as error:
            if error.kind not in _MAY_PASS:
                raise
            if not wait:
                raise _refused(error) from error
            if error.sentence != reason:
                reason = error.sentence
                log.info("gateway.standing_by", reason=reason)
        await asyncio.sleep(STANDBY_EVERY_S)


def _refused(error: SetupError | LeadLost) -> SetupError:
    if isinstance(error, SetupError):
        return error
    return SetupError(
        errors.DATA_IN_USE,
        "Another gateway already leads on this record store.",
        "Stop it first, or let this one wait for its end with --standby.",
    )


async def _hold(stack: contextlib.AsyncExitStack, folder: DataFolder) -> None:
    stack.enter_context(folder.hold("gateway"))


async def _hold_if_free(stack: contextlib.AsyncExitStack, folder: DataFolder) -> None:
    """Let commands of this machine find this gateway. The database has decided who leads: a lock that a file server still
    keeps for a machine that died does not stand against it.
    """
    for _ in range(_HOLD_TRIES):
        try:
            await _hold(stack, folder)
        except SetupError:
            await asyncio.sleep(_HOLD_PAUSE_S)
        else:
            return
    log.warning("gateway.folder_held", folder=str(folder.root))
