"""A node agent's end of the link, played by a test, and jobs for it."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from edif.blobs.file_blobs import FileBlobs
from edif.blobs.store import result_name
from edif.core.ids import ANONYMOUS, JobId, ModelId, UserName, new_job_id
from edif.core.job import AttemptOutcome, Job
from edif.gateway.fabric import Fabric
from edif.wire import link

ONE = ModelId("m/one")


class AgentStub:
    """An agent's end of the link: what it was told, and what it says."""

    def __init__(self, fabric: Fabric, blobs: FileBlobs, runtime: asyncio.Task[None]) -> None:
        self.fabric = fabric
        self.blobs = blobs
        self.runtime = runtime
        self.told: list[link.ToAgent] = []
        self.leave: Callable[[], None] = lambda: None

    def join(self, *replicas: link.ReplicaReport, running: tuple[link.AttemptRef, ...] = ()) -> None:
        hello = link.Hello(link.LINK_VERSION, "a1", "host", 1, "3.11", {}, list(replicas), list(running))
        self.leave = self.fabric.agent_joined(hello, self.told.append)

    def say(self, message: link.ToGateway) -> None:
        self.fabric.heard("a1", message)

    def ended(self, job: JobId, attempt: int, outcome: str) -> None:
        """A completed attempt has left its result in the store, as a real agent sees to."""
        if outcome == "completed":
            (self.blobs.folder / result_name(job, attempt)).write_bytes(b"result")
        said = AttemptOutcome(outcome)
        self.say(link.AttemptEnded(job, attempt, said, None, "", "", link.Usage(), 6, "0" * 64))

    async def hears(self, kind: type[link.ToAgent], number: int = 1) -> link.ToAgent:  # type: ignore[valid-type]
        """The so-manieth message of this kind, when it has come."""
        async with asyncio.timeout(60):
            while len(found := [message for message in self.told if isinstance(message, kind)]) < number:
                assert not self.runtime.done(), "the runtime has stopped"
                await asyncio.sleep(0.005)
        return found[number - 1]


async def accept(fabric: Fabric, owner: UserName = ANONYMOUS, **fields: Any) -> JobId:
    job = Job(new_job_id(), owner, ONE, "key", False, {}, 1, time.time(), **fields)
    await fabric.jobs.accept(job, subscriber=None, base_url="", received=time.monotonic())
    return job.id
