"""Users of a fabric that is measured, and what its gateway costs."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from tests.support.fabric import Fabric

from edif.core.ids import UserName
from edif.core.quota import Measure, Scope
from edif.core.users import Role, User
from edif.records.keys import mint
from edif.records.migrate import open_store


def add_people(data: Path, names: Sequence[str]) -> dict[str, str]:
    """Add users to the records in ``data``, with or without a running gateway; the key of each."""
    return asyncio.run(_add_people(data, names))


async def _add_people(data: Path, names: Sequence[str]) -> dict[str, str]:
    data.mkdir(parents=True, exist_ok=True)
    store = await open_store(data, "")
    keys = {}
    try:
        for name in names:
            keys[name], key = mint(UserName(name), time.time(), None)
            await store.add_user(User(UserName(name), Role.RESEARCHER, time.time()))
            await store.add_key(key)
    finally:
        await store.close()
    return keys


async def limit_queue(data: Path, user: str, jobs: float | None) -> None:
    """Give a user a quota of jobs in the queue, or take it away; the gateway goes by it within a second."""
    store = await open_store(data, "")
    try:
        await store.set_quota(Scope.USER, user, Measure.QUEUED_JOBS, jobs)
    finally:
        await store.close()
    await asyncio.sleep(1.5)


def gateway_seconds(fabric: Fabric) -> float:
    """Processor time that the gateway has used."""
    times = psutil.Process(fabric.pid("gateway")).cpu_times()
    return float(times.user + times.system)


def gateway_bytes(fabric: Fabric) -> int:
    """The gateway's memory, with its part of what it shares (PSS)."""
    return int(psutil.Process(fabric.pid("gateway")).memory_full_info().pss)
