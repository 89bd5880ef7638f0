"""A model on a device: one job at a time, and what its processes do meanwhile."""

import asyncio
import signal
from pathlib import Path

import pytest

from edif.wire import pipe
from edif.wire.link import ON_HOST, CellLimits
from tests.unit.worker.played import CELL, Heard, PlayedFamily, PlayedProcess, family, settle

DONE = pipe.Done(0.0, 0, packed=False, rounded=0)
NO_ROOM = 70
SEVERAL = 20


async def _die_before_they_are_ready(played: PlayedFamily) -> int:
    """All that are asked for, until no more are; how many those were."""
    died = 0
    while died < SEVERAL:
        try:
            async with asyncio.timeout(0.2):
                process = await played.runners.get()
        except TimeoutError:
            return died
        died += 1
        played.end(process.pid, NO_ROOM)
    return died


async def test_processes_for_which_a_job_leaves_no_room_wait_until_it_is_gone(tmp_path: Path) -> None:
    async with family(tmp_path, cell=CELL, merging=None, mergeable=None, device=ON_HOST) as played:
        first = await played.runner()
        running = played.begin(Heard(CELL))
        job = await first.next_job()
        assert 1 <= await _die_before_they_are_ready(played) < SEVERAL
        assert played.failures == []
        job.say(DONE)
        await running
        second = await played.runner()
        assert played.failures == []
        running = played.begin(Heard(CELL))
        (await second.next_job()).say(DONE)
        await running


async def test_processes_that_die_though_no_job_is_there_are_the_models_end(tmp_path: Path) -> None:
    async with family(tmp_path, cell=CELL, merging=None, mergeable=None, device=ON_HOST) as played:
        assert await _die_before_they_are_ready(played) < SEVERAL
        assert len(played.failures) == 1


@pytest.mark.parametrize("before", [CELL, None], ids=["sealed", "shared"])
@pytest.mark.parametrize("after", [CELL, None], ids=["then sealed", "then shared"])
async def test_a_job_begins_when_the_process_of_the_one_before_is_gone(
    before: CellLimits | None, after: CellLimits | None, tmp_path: Path
) -> None:
    async with family(tmp_path, cell=before, merging=None, mergeable=None, device=ON_HOST) as played:
        first = await played.runner()
        running = played.begin(Heard(before))
        (await first.next_job()).say(pipe.Begun())
        await settle()
        dying, end = [], played.end
        played.end = lambda pid, _: dying.append(pid)  # type: ignore[method-assign]
        next_one = played.begin(Heard(after))
        running.cancel()
        ready = await _all_ready(played)
        assert first.pid in dying
        assert not any(each.has_word() for each in ready)
        played.end = end  # type: ignore[method-assign]
        for pid in dying:
            played.end(pid, -signal.SIGKILL)
        ready += await _all_ready(played)
        (process,) = [each for each in ready if each.pid in played.there and each.has_word()]
        (await process.next_job()).say(pipe.Begun(), DONE)
        if after is None:
            process.say(pipe.Ready())
        await next_one
        with pytest.raises(asyncio.CancelledError):
            await running


async def _all_ready(played: PlayedFamily) -> list[PlayedProcess]:
    """All that have been asked for by now."""
    ready = []
    await settle()
    while not played.runners.empty():
        ready.append(await played.runner())
    return ready
