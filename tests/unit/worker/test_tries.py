"""Attempts whose jobs are run again: what is taken back of the first try, what is told once, and what is charged."""

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edif.blobs.store import kept_name, result_name
from edif.core import errors
from edif.core.job import AttemptOutcome
from edif.wire import link, pipe
from tests.unit.helpers import open_descriptors
from tests.unit.worker.played import (
    CELL,
    PAYLOAD,
    PlayedAttempt,
    PlayedFamily,
    PlayedJob,
    PlayedProcess,
    family,
    settle,
)

DONE = pipe.Done(0.0, 3)
CELLS = pytest.mark.parametrize("cell", [None, CELL], ids=["shared", "sealed"])


async def _first(played: PlayedFamily, cell: Any) -> PlayedProcess:
    """The runner of the first job; of shared ones there is another, in reserve."""
    return (await played.shared())[0] if cell is None else await played.runner()


async def _next_job(runner: PlayedProcess) -> PlayedJob:
    job = await runner.next_job()
    job.say(pipe.Begun())
    return job


@CELLS
async def test_nothing_of_the_first_try_is_left_but_what_it_printed(tmp_path: Path, cell: Any) -> None:
    async with family(tmp_path, cell=cell) as played:
        attempt = PlayedAttempt(played, tmp_path, cell=cell)
        runner = await _first(played, cell)
        first = await _next_job(runner)
        first.say(pipe.Log("one "), pipe.Log("two "), pipe.Saving())
        first.write(b"the result of the first try, which is long")
        os.write(await first.room(), b"kept by the first")
        await settle()  # so that it is being read already
        stale = os.dup(first.fds[1])
        assert os.pread(first.fds[0], 99, 0) == PAYLOAD
        first.say(pipe.RunAlone("gradients"))
        second = await _next_job(await played.runner())
        os.write(stale, b"by one who does not end")
        os.close(stale)
        assert not second.request.merge
        assert os.pread(second.fds[0], 99, 0) == PAYLOAD
        second.say(pipe.Log("one tw"), pipe.Log("o thr"), pipe.Log("ee"), pipe.Saving())
        second.write(b"second")
        os.write(await second.room(), b"kept")
        second.say(DONE)
        ended = await attempt.task
        assert ended.outcome is AttemptOutcome.COMPLETED
        message = attempt.message
        assert attempt.blobs.path(result_name(message.job, message.attempt)).read_bytes() == b"second"
        assert attempt.blobs.path(kept_name(message.job, message.attempt)).read_bytes() == b"kept"
        assert (ended.result_bytes, ended.kept_bytes) == (6, 4)
        assert attempt.logged == "one two three"
        kinds = [type(each) for each in attempt.said if not isinstance(each, link.AttemptLog)]
        assert kinds == [link.AttemptStarted, link.AttemptSaving]
        assert list((attempt.blobs.folder / "tmp").iterdir()) == []


@CELLS
async def test_who_asks_twice_to_be_run_alone_has_failed(tmp_path: Path, cell: Any) -> None:
    async with family(tmp_path, cell=cell) as played:
        attempt = PlayedAttempt(played, tmp_path, cell=cell)
        runner = await _first(played, cell)
        (await _next_job(runner)).say(pipe.RunAlone("gradients"))
        (await _next_job(await played.runner())).say(pipe.RunAlone("gradients"))
        ended = await attempt.task
        assert (ended.outcome, ended.error_code) == (AttemptOutcome.FAILED, errors.PROCESS_DIED.code)
        assert "another try" in ended.sentence


async def _all_begin(runner: PlayedProcess, attempts: Sequence[PlayedAttempt]) -> list[PlayedJob]:
    jobs = [await _next_job(runner) for _ in attempts]
    await settle()
    return jobs


async def test_jobs_that_another_one_disturbed_run_again_together(tmp_path: Path) -> None:
    async with family(tmp_path) as played:
        culprit = PlayedAttempt(played, tmp_path / "a", time_limit_s=0.3)
        others = [PlayedAttempt(played, tmp_path / name) for name in "bc"]
        runner, reserve = await played.shared()
        for job in await _all_begin(runner, [culprit, *others]):
            job.say(pipe.Log("a"))
        ended = await culprit.task
        assert (ended.outcome, ended.error_code) == (AttemptOutcome.FAILED, errors.TIME_LIMIT.code)
        for job in await _all_begin(reserve, others):
            assert job.request.merge
            job.say(pipe.Log("ab"), DONE)
        for other in others:
            assert (await other.task).outcome is AttemptOutcome.COMPLETED
            assert other.logged == "ab"


async def test_who_had_the_turn_when_the_runner_died_runs_alone_and_the_others_do_not_wait_for_it(
    tmp_path: Path,
) -> None:
    async with family(tmp_path) as played:
        attempts = [PlayedAttempt(played, tmp_path / name) for name in "abc"]
        runner, reserve = await played.shared()
        await _all_begin(runner, attempts)
        _dies_of(played, runner, 2)
        again = [await _next_job(reserve), await _next_job(reserve)]
        await played.runner()  # the next reserve
        alone = await _next_job(await played.runner())
        assert [job.request.merge for job in (*again, alone)] == [True, True, False]
        for job in again:
            job.say(DONE)
        ends = [await attempts[each].task for each in (0, 2)]
        assert [each.outcome for each in ends] == [AttemptOutcome.COMPLETED] * 2
        assert not attempts[1].task.done()
        alone.say(DONE)
        assert (await attempts[1].task).outcome is AttemptOutcome.COMPLETED


async def test_who_was_taken_along_twice_runs_alone(tmp_path: Path) -> None:
    """By whom is not for the process to say, which may lie."""
    async with family(tmp_path) as played:
        attempts = [PlayedAttempt(played, tmp_path / name) for name in "abc"]
        runner, reserve = await played.shared()
        await _all_begin(runner, attempts)
        _dies_of(played, runner, 3)
        await played.runner()
        (await _next_job(await played.runner())).say(DONE)
        await _all_begin(reserve, attempts[:2])
        attempts.append(PlayedAttempt(played, tmp_path / "d"))
        await _all_begin(reserve, attempts[3:])
        _dies_of(played, reserve, 3)
        jobs = [await _next_job(await played.runner()) for _ in range(3)]
        assert [job.request.merge for job in jobs] == [False, False, False]
        for job in jobs:
            job.say(DONE)
        for attempt in attempts:
            assert (await attempt.task).outcome is AttemptOutcome.COMPLETED


def _dies_of(played: PlayedFamily, runner: PlayedProcess, number: int) -> None:
    """It dies while the job that entered as this one has the turn."""
    assert runner.turn is not None
    runner.turn.note(number, 0.1)
    played.end(runner.pid, -signal.SIGSEGV)


@pytest.mark.parametrize("attempt", [2, 3])
async def test_a_job_that_has_lost_a_try_takes_nobody_along_in_the_next_one(
    tmp_path: Path, attempt: int
) -> None:
    async with family(tmp_path) as played:
        again = PlayedAttempt(played, tmp_path / "a", attempt=attempt)
        first = PlayedAttempt(played, tmp_path / "b")
        runner, _ = await played.shared()
        inside, aside = await _next_job(runner), await played.runner()
        alone = await _next_job(aside)
        assert [inside.request.merge, alone.request.merge] == [True, False]
        played.end(aside.pid, -signal.SIGSEGV)
        ended = await again.task
        assert (ended.outcome, ended.error_code) == (AttemptOutcome.LOST, errors.REPLICA_LOST.code)
        inside.say(DONE)
        assert (await first.task).outcome is AttemptOutcome.COMPLETED


async def test_a_job_that_had_not_begun_is_simply_run_again(tmp_path: Path) -> None:
    async with family(tmp_path) as played:
        attempts = [PlayedAttempt(played, tmp_path / name) for name in "abc"]
        runner = await played.runner()
        jobs = [await runner.next_job() for _ in attempts]
        jobs[0].say(pipe.Begun())
        await settle()
        attempts[0].task.cancel()
        runner = await played.runner()
        again = [await runner.next_job() for _ in attempts[1:]]
        assert [job.request.merge for job in again] == [True, True]
        for job in again:
            job.say(pipe.Begun(), DONE)
        ends = [(await attempt.task).outcome for attempt in attempts]
        assert ends == [AttemptOutcome.CANCELLED, AttemptOutcome.COMPLETED, AttemptOutcome.COMPLETED]


async def test_who_kills_the_runner_though_alone_is_lost_and_tried_elsewhere(tmp_path: Path) -> None:
    async with family(tmp_path) as played:
        attempts = [PlayedAttempt(played, tmp_path / name) for name in "ab"]
        runner, _ = await played.shared()
        await _all_begin(runner, attempts)
        played.end(runner.pid, -signal.SIGSEGV)  # nobody knows who it was: both are suspects
        await played.runner()
        for _ in attempts:
            alone = await played.runner()
            await _all_begin(alone, attempts[:1])
            played.end(alone.pid, -signal.SIGSEGV)
        for attempt in attempts:
            ended = await attempt.task
            assert (ended.outcome, ended.error_code) == (AttemptOutcome.LOST, errors.REPLICA_LOST.code)
            assert "SIGSEGV" in ended.sentence


# -- what it is charged --------------------------------------------------------------------------------
async def test_of_a_shared_pass_a_job_bears_the_part_of_its_rows(tmp_path: Path) -> None:
    async with family(tmp_path) as played:
        attempt = PlayedAttempt(played, tmp_path)
        job = await _next_job(await played.runner())
        await asyncio.sleep(0.6)
        job.say(pipe.Shared(0, 4, 1, 0.2, 0.3), pipe.Shared(0, 8, 2, 0.1, 0.1), DONE)
        usage = (await attempt.task).usage
        assert (usage.shared_passes, usage.shared_rows) == (2, 8)
        assert usage.run_s >= 0.6
        assert usage.charged_s == pytest.approx(usage.run_s - 0.4 + 0.2 / 4 + 0.1 / 4, abs=1e-6)


@CELLS
async def test_all_tries_are_charged_and_passes_are_those_of_the_last(tmp_path: Path, cell: Any) -> None:
    async with family(tmp_path, cell=cell) as played:
        driver = await played.driver() if cell is not None else None
        attempt = PlayedAttempt(played, tmp_path, cell=cell)
        runner = await _first(played, cell)
        first = await _next_job(runner)
        await asyncio.sleep(0.3)
        teller = first if driver is None else driver
        teller.say(pipe.Shared(0 if driver is None else 1, 4, 1, 0.2, 0.2))
        await settle()
        first.say(pipe.RunAlone("gradients"))
        second = await _next_job(await played.runner())
        await asyncio.sleep(0.3)
        second.say(pipe.Done(0.1, 3))
        usage = (await attempt.task).usage
        assert (usage.shared_passes, usage.shared_rows) == (0, 0)
        assert usage.run_s + usage.save_s >= 0.6
        assert usage.save_s == 0.1
        assert usage.charged_s == pytest.approx(usage.run_s - 0.2 + 0.2 / 4, abs=1e-6)


@pytest.mark.parametrize(
    "said",
    [
        pipe.Shared(0, 0, 0, 0.1, 0.1),
        pipe.Shared(0, 0, 5, 0.1, 0.1),
        pipe.Shared(0, 4, 0, float("inf"), float("inf")),
        pipe.Shared(0, 1, 2**63 - 1, 1e300, 1e300),
        pipe.Shared(0, 2**63 - 1, 1, float("inf"), 0.0),
        pipe.Shared(0, 2**63 - 1, 2**63 - 1, float("inf"), float("inf")),
    ],
)
async def test_whatever_a_shared_runner_says_the_charge_lies_within_the_seconds(
    tmp_path: Path, said: pipe.Shared
) -> None:
    async with family(tmp_path) as played:
        attempt = PlayedAttempt(played, tmp_path)
        job = await _next_job(await played.runner())
        job.say(*[said] * 3, DONE)
        usage = (await attempt.task).usage
        assert 0.0 <= usage.charged_s <= usage.run_s < 60.0


# -- what is left --------------------------------------------------------------------------------------
@CELLS
@pytest.mark.parametrize("when", ["it waits", "it has a runner", "it runs", "it runs again"])
async def test_a_job_that_is_cancelled_leaves_nothing_open(tmp_path: Path, cell: Any, when: str) -> None:
    before = open_descriptors()
    async with family(tmp_path, cell=cell) as played:
        attempt = PlayedAttempt(played, tmp_path, cell=cell)
        await settle()
        if when != "it waits":
            if cell is not None:
                await played.driver()
            runner = await _first(played, cell)
            if when != "it has a runner":
                first = await _next_job(runner)
                await first.room()
                await settle()
            if when == "it runs again":
                first.say(pipe.RunAlone("gradients"))
                await _next_job(await played.runner())
                await settle()
        attempt.task.cancel()
        assert (await attempt.task).outcome is AttemptOutcome.CANCELLED
        await settle()
    assert list((attempt.blobs.folder / "tmp").iterdir()) == []
    assert not (tmp_path / "scratch").exists() or list((tmp_path / "scratch").iterdir()) == []
    assert set(open_descriptors()) == set(before)
