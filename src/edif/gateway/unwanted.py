"""Blobs that are to go, until they are gone."""

import asyncio
from typing import NoReturn

import structlog

from edif.blobs.store import BlobStore
from edif.core.errors import BlobsUnavailable

log = structlog.get_logger()

TRY_AGAIN_S = 10.0


class Unwanted:
    """Deletes at once; what a store that is away, or a disk that fails, did not delete is remembered, and tried again until it does.

    Of what a gateway that dies remembered, the next one finds at its start what belongs to no job that waits or runs, and
    retention the rest.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._names: dict[str, None] = {}
        self._away = False

    async def delete(self, *names: str) -> None:
        self._names.update(dict.fromkeys(names))
        if not self._away:  # else each of those who come now would wait until it is clear that it still is
            await self._try()

    async def keep_trying(self) -> NoReturn:
        """Runs until cancelled."""
        while True:
            await asyncio.sleep(TRY_AGAIN_S)
            await self._try()

    async def _try(self) -> None:
        try:
            for name in list(self._names):
                await self._blobs.delete(name)
                self._names.pop(name, None)
            self._away = False
        except (BlobsUnavailable, OSError) as error:
            self._away = True
            log.warning("fabric.blobs_left", blobs=len(self._names), reason=str(error))
