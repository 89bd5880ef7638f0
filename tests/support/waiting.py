"""Waiting for what will be true, however slow the machine is."""

import asyncio
from collections.abc import Awaitable, Callable

from tests.support.fabric import PATIENCE_S
from tests.support.replay import Replayer


async def eventually(true: Callable[[], Awaitable[bool]], timeout_s: float = PATIENCE_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not await true():
            await asyncio.sleep(0.05)


def says(client: Replayer, job: str, text: str) -> Callable[[], Awaitable[bool]]:
    """Whether the job's last status says this."""

    async def said() -> bool:
        return text in (await client.get(f"/response/{job}")).json()["description"]

    return said
