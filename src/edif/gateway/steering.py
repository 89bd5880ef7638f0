"""What an operator asks of models and of the fabric as a whole: bring one up, take one down, begin no more jobs."""

import asyncio
from collections.abc import Callable

from edif.core import errors
from edif.core.errors import NotFound
from edif.core.ids import ModelId, UserName
from edif.gateway.conductor import Conductor
from edif.gateway.entitlements import Entitlements
from edif.gateway.runtime import Drain, Item
from edif.models.catalogue import Catalogue
from edif.records.store import RecordStore
from edif.scheduler import events as ev


class Steering:
    """What somebody asks is on record, with who it was, before the runtime hears of it.

    Args:
        post: puts an item into the runtime's inbox.
    """

    def __init__(
        self,
        *,
        records: RecordStore,
        catalogue: Catalogue,
        entitlements: Entitlements,
        conductor: Conductor,
        post: Callable[[Item], None],
    ) -> None:
        self._records = records
        self._catalogue = catalogue
        self._entitlements = entitlements
        self._conductor = conductor
        self._post = post

    async def deploy(self, model: ModelId, by: UserName) -> None:
        await self._note("model.deploy_asked", self._known_model(model), by)
        self._post(ev.DeployAsked(model))

    async def evict(self, model: ModelId, by: UserName) -> None:
        await self._note("model.evict_asked", self._known_model(model), by)
        self._post(ev.EvictAsked(model))

    async def drain(self, by: UserName) -> None:
        """Begin no more jobs until :meth:`resume`, over restarts: what runs, ends; what waits, waits."""
        await self._records.set_draining(True, by=await self._entitlements.actor(by))
        await self.begin_drain()

    async def begin_drain(self) -> None:
        """Drain until this process ends. Returns when nothing begins any more, and those who wait have been told."""
        self._conductor.drained.clear()
        draining = asyncio.get_running_loop().create_future()
        self._post(Drain(draining))
        await draining

    async def drained(self) -> None:
        """Returns when no job runs any more, after :meth:`begin_drain`."""
        await self._conductor.drained.wait()

    async def resume(self, by: UserName) -> None:
        await self._records.set_draining(False, by=await self._entitlements.actor(by))
        self._post(ev.DrainEnded())

    async def _note(self, action: str, subject: str, by: UserName) -> None:
        await self._records.note(action, subject, by=await self._entitlements.actor(by))

    def _known_model(self, model: ModelId) -> ModelId:
        if model not in self._catalogue:
            raise NotFound(errors.MODEL_NOT_SERVED, f"The model {model!r} is not served here.")
        return model
