"""Running requests on one replica, without a fabric around it.

Everything that depends on how a replica takes a job is here.
"""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edif.core.job import Extras
from edif.core.limits import MIB
from edif.wire import pipe
from edif.wire.link import CellLimits, Merging, ModelSpec
from edif.worker.conversations import JobCallbacks
from edif.worker.endings import AskedAlone, AskedTwice, Disturbed, JobRefused, RunnerDied
from edif.worker.replica import Replica, ReplicaCallbacks
from edif.worker.tries import Standing
from tests.support.programs.payloads import Payload

CELL = CellLimits(memory_bytes=2**31, scratch_bytes=2**26, file_bytes=2**28, cpu_s=60)
_LOAD_S = 120.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one request ended.

    Attributes:
        result: the bytes of its result, None if there is none.
        code: the error's code, ``""`` with a result; ``died`` and ``time_limit`` for what the replica itself finds.
        sentence: the error's words, the traceback among them.
        log: what the block printed.
        shared: the passes that it shared with others in the try that counted.
        why_alone: what the executor said when it wanted the job run again, alone; empty if it did not.
        tries: how often it was run.
    """

    result: bytes | None
    code: str = ""
    sentence: str = ""
    log: str = ""
    shared: tuple[pipe.Shared, ...] = ()
    why_alone: str = ""
    tries: int = 1

    @property
    def in_company(self) -> bool:
        """Whether it had a part in a pass that had rows of another."""
        return any(each.rows > each.own_rows for each in self.shared)


class Served:
    """A replica that has its model.

    Args:
        folder: for payloads and results.
        sealed: whether its jobs run sealed, in :data:`CELL`; to be changed while none runs.
        merge: whether their traces may share forward passes.
    """

    def __init__(self, replica: Replica, folder: Path, *, sealed: bool) -> None:
        self.sealed = sealed
        self.merge = False
        self._replica = replica
        self._folder = folder
        self._number = 0

    async def run(self, payload: Payload, *, time_limit_s: float = 60.0) -> Outcome:
        """Run one request; it waits for a process if all are taken."""
        self._number += 1
        request = pipe.RunJob(
            env=payload.env,
            compress=False,
            extras=Extras(),
            result_limit_bytes=64 * MIB,
            expanded_limit_bytes=64 * MIB,
            log_limit_bytes=MIB,
            merge=self.merge,
        )
        body, result = self._folder / f"{self._number}.payload", self._folder / f"{self._number}.result"
        body.write_bytes(payload.body)
        fds = (os.open(body, os.O_RDONLY), os.open(result, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            return await self._tries(request, fds, result, time_limit_s)
        finally:
            for fd in fds:
                os.close(fd)
            body.unlink()
            result.unlink()

    async def _tries(
        self, request: pipe.RunJob, fds: tuple[int, int], result: Path, time_limit_s: float
    ) -> Outcome:
        """One try, and others where an attempt has them."""
        standing = Standing()
        for tries in itertools.count(1):
            log: list[str] = []
            shared: list[pipe.Shared] = []
            told = partial(_outcome, log=log, shared=shared, standing=standing, tries=tries)
            try:
                await self._try(standing, request, fds, time_limit_s, log, shared)
                return told(result.read_bytes())
            except (AskedAlone, Disturbed) as end:
                try:
                    standing.after(end)
                except AskedTwice as twice:
                    return told(None, "died", twice.sentence)
            except JobRefused as refused:
                return told(None, refused.failure.code, refused.failure.sentence)
            except RunnerDied as died:
                return told(None, "died", died.sentence)
            except TimeoutError:
                return told(None, "time_limit")
            os.ftruncate(fds[1], 0)
            os.lseek(fds[1], 0, os.SEEK_SET)
        raise AssertionError

    async def _try(
        self,
        standing: Standing,
        request: pipe.RunJob,
        fds: tuple[int, int],
        time_limit_s: float,
        log: list[str],
        shared: list[pipe.Shared],
    ) -> None:
        callbacks = JobCallbacks(
            log=log.append,
            saving=lambda: None,
            room=_no_room,
            shared=shared.append,
            spent=lambda _seconds, _bytes: None,
        )
        cell = CELL if self.sealed else None
        request = standing.request(request)
        await self._replica.run(request, fds, callbacks, cell, time_limit_s, alone=standing.alone)

    async def run_all(
        self, payloads: Sequence[Payload], *, at_once: int = 1, time_limit_s: float = 60.0
    ) -> list[Outcome]:
        """Run all, so many at once as are allowed, and begun in their order; the outcomes are in that order too."""
        free = asyncio.Semaphore(at_once)

        async def one(payload: Payload) -> Outcome:
            async with free:
                return await self.run(payload, time_limit_s=time_limit_s)

        return list(await asyncio.gather(*(one(payload) for payload in payloads)))


@asynccontextmanager
async def serving(
    spec: ModelSpec, folder: Path, *, sealed: bool = False, merging: Merging | None = None
) -> AsyncIterator[Served]:
    """One replica of the model, ready to run jobs, and stopped afterwards.

    Args:
        folder: for payloads, results and scratch folders; made if it is not there.
        merging: how traces may be merged; jobs are merged when ``merge`` is set besides.

    Raises:
        RuntimeError: the model could not be loaded.
    """
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def failed(sentence: str, _died: bool) -> None:
        if not ready.done():
            ready.set_exception(RuntimeError(sentence))

    def loaded(_load_s: float, _weight_bytes: int) -> None:
        if not ready.done():
            ready.set_result(None)

    scratch = folder / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    callbacks = ReplicaCallbacks(loading=lambda _: None, ready=loaded, failed=failed)
    replica = Replica("r1", spec, callbacks, dict(os.environ), CELL if sealed else None, scratch, merging)
    await replica.start()
    try:
        async with asyncio.timeout(_LOAD_S):
            await ready
        yield Served(replica, folder, sealed=sealed)
    finally:
        await replica.stop()


def _outcome(
    result: bytes | None,
    code: str = "",
    sentence: str = "",
    *,
    log: list[str],
    shared: list[pipe.Shared],
    standing: Standing,
    tries: int,
) -> Outcome:
    return Outcome(result, code, sentence, "".join(log), tuple(shared), standing.why_alone, tries)


def _no_room() -> int:
    raise OSError("nothing of these programs is kept")
