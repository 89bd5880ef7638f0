"""Jobs of a real replica that merges: what the agent tells of them when they share passes, and when one takes others with it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edif.blobs.file_blobs import FileBlobs
from edif.blobs.store import payload_name
from edif.core import errors
from edif.core.job import AttemptOutcome
from edif.core.limits import GIB
from edif.wire import link
from edif.wire.link import CellLimits, Merging, ModelSpec
from edif.worker.attempt import run_attempt
from edif.worker.replica import Replica, ReplicaCallbacks
from edif.worker.transfer import FolderTransfer
from fuzz.pipe_messages import RUN
from tests.support.models import GPT2_ID
from tests.unit.helpers import open_descriptors

MERGING = Merging(rows=4, tokens=4096, tolerance=64.0, alone_at_once=1, always=True)
CELL = CellLimits(memory_bytes=2 * GIB, scratch_bytes=2**20, file_bytes=GIB, cpu_s=60)
CELLS = pytest.mark.parametrize("cell", [None, CELL], ids=["shared", "sealed"])


class _Jobs:
    """Jobs on one replica, payloads and results in a real blob folder."""

    def __init__(self, replica: Replica, blobs: Path, folder: Path, cell: CellLimits | None) -> None:
        self._replica = replica
        self._payloads = blobs
        self._blobs = FileBlobs(folder / "blobs", "a1")
        self._cell = cell
        self._said: list[link.ToGateway] = []
        self._last = 0

    def begin(self, program: str, **fields: Any) -> asyncio.Task[link.AttemptEnded]:
        self._last += 1
        job = f"j{self._last:024x}"
        payload = (self._payloads / f"{program}.zst").read_bytes()
        self._blobs.path(payload_name(job)).write_bytes(payload)
        run = msgspec.structs.replace(
            RUN,
            job=job,
            cell=self._cell,
            merge=True,
            env={"attn_implementation": "sdpa"},  # as a client sends it
            compress=True,
            result_limit_bytes=2**24,
            expanded_limit_bytes=2**24,
        )
        run = msgspec.structs.replace(run, **fields)
        return asyncio.create_task(
            run_attempt(run, self._replica, FolderTransfer(self._blobs), self._said.append)
        )

    async def all(self, *programs: str) -> list[link.AttemptEnded]:
        return await asyncio.gather(*(self.begin(program) for program in programs))


@asynccontextmanager
async def _jobs(
    models: dict[str, Path], blobs: Path, folder: Path, cell: CellLimits | None
) -> AsyncIterator[_Jobs]:
    loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    callbacks = ReplicaCallbacks(
        loading=lambda _: None,
        ready=lambda *_: loaded.set_result(None),
        failed=lambda sentence, _: loaded.set_exception(AssertionError(sentence)),
    )
    spec = ModelSpec(GPT2_ID, path=str(models[GPT2_ID]))
    replica = Replica("r1", spec, callbacks, {}, cell, folder / "scratch", MERGING)
    await replica.start()
    try:
        await loaded
        jobs = _Jobs(replica, blobs, folder, cell)
        await jobs.all("hello")
        yield jobs
    finally:
        await replica.stop()


@CELLS
async def test_traces_of_jobs_that_are_there_together_share_passes_and_bear_their_parts(
    models: dict[str, Path], blobs: Path, tmp_path: Path, cell: CellLimits | None
) -> None:
    before = open_descriptors()
    async with _jobs(models, blobs, tmp_path, cell) as jobs:
        ends = await jobs.all("hello", "hidden", "hello")
        assert [end.outcome for end in ends] == [AttemptOutcome.COMPLETED] * 3, ends
        assert max(end.usage.shared_rows for end in ends) > 1
        for end in ends:
            if end.usage.shared_rows > 1:
                assert 0.0 < end.usage.charged_s < end.usage.run_s
    assert set(open_descriptors()) == set(before)


@CELLS
async def test_a_job_that_a_shared_pass_does_not_suit_is_run_again_and_nobody_sees_that(
    models: dict[str, Path], blobs: Path, tmp_path: Path, cell: CellLimits | None
) -> None:
    async with _jobs(models, blobs, tmp_path, cell) as jobs:
        ends = await jobs.all("edits_weights", "hello", "hidden")
        assert [end.outcome for end in ends] == [AttemptOutcome.COMPLETED] * 3, ends
        assert ends[0].usage.shared_passes == 0


@CELLS
async def test_whoever_takes_the_process_along_the_others_end_well(
    models: dict[str, Path], blobs: Path, tmp_path: Path, cell: CellLimits | None
) -> None:
    async with _jobs(models, blobs, tmp_path, cell) as jobs:
        culprit = jobs.begin("endless", time_limit_s=3.0)
        others = [jobs.begin(program) for program in ("hello", "hidden")]
        ended = await culprit
        assert (ended.outcome, ended.error_code) == (AttemptOutcome.FAILED, errors.TIME_LIMIT.code)
        ends = await asyncio.gather(*others)
        assert [end.outcome for end in ends] == [AttemptOutcome.COMPLETED] * 2, ends


async def test_of_those_that_were_in_a_process_that_died_each_is_run_alone(
    models: dict[str, Path], blobs: Path, tmp_path: Path
) -> None:
    async with _jobs(models, blobs, tmp_path, None) as jobs:
        ends = await jobs.all("segfault", "hello", "hidden")
        assert [end.outcome for end in ends] == [AttemptOutcome.LOST, *[AttemptOutcome.COMPLETED] * 2], ends
        assert "SIGSEGV" in ends[0].sentence
