"""Waiting for what will be true, however slow the machine is."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

from tests.support.fabric import PATIENCE_S, Fabric
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


async def gateway_is_tried_until(fabric: Fabric, code: str, mend: Callable[[], None]) -> None:
    """The gateway is killed; what keeps it from coming up again is told, and passes when it is mended."""
    os.kill(fabric.pid("gateway"), signal.SIGKILL)
    assert fabric.process.stdout is not None
    said = ""
    async with asyncio.timeout(PATIENCE_S):
        while f"[{code}]" not in said:
            said = (await asyncio.to_thread(fabric.process.stdout.readline)).decode()
            assert said or fabric.process.poll() is None
    assert "tried again" in said
    mend()
    async with asyncio.timeout(PATIENCE_S):
        while "come up again" not in said:
            said = (await asyncio.to_thread(fabric.process.stdout.readline)).decode()
            assert said or fabric.process.poll() is None
