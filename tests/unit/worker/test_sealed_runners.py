"""Sealed runners, their seats and the driver; all of these processes are played."""

import asyncio
import signal
from pathlib import Path

import pytest

from edif.wire import pipe
from edif.worker import pool
from edif.worker.drivers import Driver
from edif.worker.processes import ProcessCallbacks
from tests.unit.worker.played import CELL, MERGEABLE, Heard, PlayedFamily, family, settle

DONE = pipe.Done(0.0, 3)
PASS = pipe.Shared(1, 3, 1, 0.1, 0.2)


async def test_a_seat_leads_from_the_jobs_process_to_the_driver(tmp_path: Path) -> None:
    async with family(tmp_path, cell=CELL) as played:
        driver, runner = await played.driver(), await played.runner()
        running = played.begin(Heard(CELL))
        inside = await runner.next_job()
        number, seat = await driver.admitted()
        assert (inside.request.merge, number) == (True, 1)
        assert runner.seat is not None
        with seat:
            runner.seat.send(b"hello")
            assert seat.recv(9) == b"hello"
            runner.seat.close()
            assert seat.recv(9) == b"", "the agent has kept no copy of it"
        inside.say(DONE)
        assert await running == DONE


@pytest.mark.parametrize("driver_is", ["not ready", "dead"])
async def test_without_a_driver_jobs_run_alone_and_their_seats_are_closed(
    tmp_path: Path, driver_is: str
) -> None:
    async with family(tmp_path, cell=CELL) as played:
        runner = await played.runner()
        if driver_is == "dead":
            played.end((await played.driver()).pid, 1)
            await settle()
        running = played.begin(Heard(CELL))
        inside = await runner.next_job()
        assert not inside.request.merge
        assert runner.seat is not None
        assert runner.seat.recv(9) == b""
        inside.say(DONE)
        assert await running == DONE


@pytest.mark.parametrize(
    "why", [{"merging": None}, {"mergeable": None}, {"mergeable": pipe.Mergeable(9.0, "too far off")}]
)
async def test_a_replica_that_does_not_merge_has_neither_seats_nor_driver(
    tmp_path: Path, why: dict[str, None]
) -> None:
    async with family(tmp_path, cell=CELL, **why) as played:
        runner = await played.runner()
        running = played.begin(Heard(CELL))
        inside = await runner.next_job()
        assert (runner.seat, played.drivers.empty(), inside.request.merge) == (None, True, False)
        inside.say(DONE)
        assert await running == DONE


async def test_of_passes_only_the_driver_is_believed(tmp_path: Path) -> None:
    async with family(tmp_path, cell=CELL) as played:
        driver, runner = await played.driver(), await played.runner()
        job = Heard(CELL)
        running = played.begin(job)
        inside = await runner.next_job()
        inside.say(pipe.Begun(), pipe.Shared(1, 9, 9, 9.0, 9.0))
        driver.say(pipe.Shared(2, 9, 9, 9.0, 9.0))  # another's
        driver.say(PASS)
        inside.say(DONE)
        await running
        assert job.passes == [PASS]


async def test_a_driver_that_dies_is_forked_anew_and_one_that_always_does_is_given_up(tmp_path: Path) -> None:
    async with family(tmp_path, cell=CELL) as played:
        for fruitful in (False, False, True, False, False):
            driver = await played.driver()
            if fruitful:
                driver.say(PASS)
            played.end(driver.pid, 1)
        played.end((await played.driver()).pid, 1)
        await settle()
        runner = await played.runner()
        running = played.begin(Heard(CELL))
        inside = await runner.next_job()
        assert (inside.request.merge, played.drivers.empty()) == (False, True)
        inside.say(DONE)
        assert await running == DONE


async def _ready(played: PlayedFamily, most: int = 99) -> int:
    """Have up to so many of those that were asked for be ready; how many there were."""
    for number in range(most):
        if played.runners.empty():
            return number
        await played.runner()
    return most


async def test_with_the_jobs_that_come_more_stand_ready_and_when_all_is_quiet_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_IDLE_S", 0.3)
    monkeypatch.setattr(pool, "_COMING_AT_ONCE", 99)
    async with family(tmp_path, cell=CELL) as played:
        await settle()
        assert await _ready(played) == 2
        running = [played.begin(Heard(CELL)) for _ in range(9)]
        await settle()
        # Two have begun, seven wait: for these rows are being made, and no more.
        assert await _ready(played, most=4) == 4
        await settle()
        assert played.runners.qsize() == 4
        while played.runners.qsize():
            await played.runner()
        for each in running:
            each.cancel()
        await asyncio.wait(running)
        await settle()
        await asyncio.sleep(0.5)
        await settle()
        assert len([each for each in played.there.values() if isinstance(each.request, pipe.ForkRunner)]) == 2


async def test_as_many_are_in_the_making_as_there_are_processors_and_prepare_only_while_few_jobs_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_COMING_AT_ONCE", 3)
    async with family(tmp_path, cell=CELL) as played:
        await settle()
        assert await _ready(played) == 2
        running = [played.begin(Heard(CELL)) for _ in range(9)]
        for _ in range(3):
            await settle()
            assert played.runners.qsize() == 3
            await _ready(played, most=3)
        requests = [
            each.request for each in played.there.values() if isinstance(each.request, pipe.ForkRunner)
        ]
        assert [each.prepares for each in requests] == [True] * 2 + [False] * (len(requests) - 2)
        for each in running:
            each.cancel()
        await asyncio.wait(running)


async def test_without_merging_two_are_made_ahead_however_many_wait(tmp_path: Path) -> None:
    async with family(tmp_path, cell=CELL, merging=None) as played:
        running = [played.begin(Heard(CELL)) for _ in range(9)]
        await settle()
        assert played.runners.qsize() == 2
        for each in running:
            each.cancel()
        await asyncio.wait(running)


async def test_who_waits_is_served_in_the_order_of_coming(tmp_path: Path) -> None:
    async with family(tmp_path, cell=CELL) as played:
        await settle()
        running = [played.begin(Heard(CELL)) for _ in range(6)]
        await settle()
        running[2].cancel()
        done = []
        for _ in range(5):
            inside = await (await played.runner()).next_job()
            inside.say(DONE)
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            await settle()
            done.append([each.done() and not each.cancelled() for each in running])
        assert [sum(each) for each in done] == [1, 2, 3, 4, 5]
        assert [each.index(False) for each in done[:2]] == [1, 2]
        assert [each[3:].index(False) for each in done[2:4]] == [1, 2]


async def test_a_job_that_is_cancelled_when_it_has_just_got_a_runner_leaves_it_to_the_next(
    tmp_path: Path,
) -> None:
    async with family(tmp_path, cell=CELL) as played:
        running = played.begin(Heard(CELL))
        await settle()
        process = await played.runners.get()
        process.say(pipe.Ready())
        # Heard and acted on within one step of the loop, before the job itself is woken.
        await asyncio.sleep(0)
        while not any(each.held for each in played.replica._pool._runners):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled()
        after = played.begin(Heard(CELL))
        (await process.next_job()).say(DONE)
        assert await after == DONE


async def test_the_process_of_a_sealed_job_that_dies_died_by_it(tmp_path: Path) -> None:
    async with family(tmp_path, cell=CELL, mergeable=MERGEABLE) as played:
        runner = await played.runner()
        running = played.begin(Heard(CELL))
        await runner.next_job()
        played.end(runner.pid, -signal.SIGSEGV)
        await asyncio.wait({running})
        assert getattr(running.exception(), "by_its_job", None) is True


async def test_what_the_driver_had_said_of_a_job_before_it_ended_is_heard() -> None:
    """Its answer comes on another socket, and may be heard first."""
    ours, theirs = pipe.pair()
    seat, _ = seats = pipe.pair()
    driver = Driver(ours, ProcessCallbacks(lambda: None, lambda _: None, lambda _: None))
    heard: list[pipe.Shared] = []
    number = driver.admit(seat, heard.append)
    assert number == 1
    pipe.send(theirs, PASS)
    driver.leave(number)
    pipe.send(theirs, PASS)
    driver.leave(number)
    assert heard == [PASS]
    driver.discard()
    for sock in (theirs, *seats):
        sock.close()
