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
async def test_jobs_share_passes_or_run_again_and_who_takes_the_process_along_takes_nobody_else(
    models: dict[str, Path], blobs: Path, tmp_path: Path, cell: CellLimits | None
) -> None:
    """One replica for all of it, for its start takes seconds."""
    before = open_descriptors()
    async with _jobs(models, blobs, tmp_path, cell) as jobs:
        await _share_and_bear_their_parts(jobs)
        await _who_leaves_in_the_middle_bears_its_part_until_then(jobs)
        await _one_does_not_suit_and_is_run_again(jobs)
        await _one_runs_too_long(jobs)
        await _one_kills_its_process(jobs, by_its_job=cell is not None)
    assert set(open_descriptors()) == set(before)


async def _share_and_bear_their_parts(jobs: _Jobs) -> None:
    ends = await jobs.all("hello", "hidden", "hello")
    _completed(ends)
    assert max(end.usage.shared_rows for end in ends) > 1
    for end in ends:
        if end.usage.shared_rows > 1:
            assert 0.0 < end.usage.charged_s < end.usage.run_s


async def _who_leaves_in_the_middle_bears_its_part_until_then(jobs: _Jobs) -> None:
    ends = await jobs.all("raises", "stops", "hello", "raises")
    assert [end.error_code for end in ends] == [errors.USER_CODE.code, None, None, errors.USER_CODE.code]
    together = [
        end.usage for end in ends if end.usage.shared_rows > 1
    ]  # on a busy machine one may be too slow
    assert len(together) > 1
    for usage in together:
        assert usage.shared_passes == 1
        assert 0.0 < usage.charged_s < usage.run_s


async def _one_does_not_suit_and_is_run_again(jobs: _Jobs) -> None:
    ends = await jobs.all("edits_weights", "hello", "hidden")
    _completed(ends)
    assert ends[0].usage.shared_passes == 0


async def _one_runs_too_long(jobs: _Jobs) -> None:
    culprit = jobs.begin("endless", time_limit_s=3.0)
    others = [jobs.begin(program) for program in ("hello", "hidden")]
    ended = await culprit
    assert (ended.outcome, ended.error_code) == (AttemptOutcome.FAILED, errors.TIME_LIMIT.code)
    _completed(await asyncio.gather(*others))


async def _one_kills_its_process(jobs: _Jobs, *, by_its_job: bool) -> None:
    """In a shared one nobody knows at first who it was."""
    ended, *others = await jobs.all("segfault", "hello", "hidden")
    assert ended.outcome is (AttemptOutcome.FAILED if by_its_job else AttemptOutcome.LOST)
    assert "SIGSEGV" in ended.sentence
    _completed(others)


def _completed(ends: list[link.AttemptEnded]) -> None:
    assert [end.outcome for end in ends] == [AttemptOutcome.COMPLETED] * len(ends), ends
