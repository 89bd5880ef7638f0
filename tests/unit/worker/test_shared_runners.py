"""Jobs in a shared runner, each on a socket of its own; its process is played."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from edif.wire import pipe
from edif.wire.turn_register import NOBODY
from edif.worker import pool, shared_runners, shared_stock, turn_watch
from edif.worker.endings import AskedAlone, Disturbed, JobRefused, RunnerDied
from tests.unit.worker.played import REQUEST, Heard, PlayedFamily, PlayedProcess, family, settle

DONE = pipe.Done(0.0, 3)


async def test_all_about_a_job_is_said_on_its_own_socket(tmp_path: Path) -> None:
    async with family(tmp_path) as played:
        runner = await played.runner()
        job = Heard()
        running = played.begin(job)
        inside = await runner.next_job()
        assert (inside.request, len(inside.fds)) == (REQUEST, 2)
        runner.say(pipe.Log("not of any job"))
        passed = pipe.Shared(0, 3, 1, 0.1, 0.2)
        inside.say(pipe.Begun(), pipe.Log("a"), pipe.Log("b"), passed)
        await inside.room()
        inside.say(DONE, pipe.Log("afterwards"))
        inside.close()
        assert await running == DONE
        assert (job.logged, job.passes, len(job.seconds)) == (["a", "b"], [passed], 1)
        assert len(played.there) == 2, "that it closes the job's socket afterwards is no death"


async def test_a_replica_that_merges_has_several_jobs_in_it_and_they_end_on_their_own(tmp_path: Path) -> None:
    async with family(tmp_path) as played:
        runner = await played.runner()
        jobs = [Heard() for _ in range(5)]
        running = [played.begin(job) for job in jobs]
        inside = [await runner.next_job() for _ in range(4)]
        await settle()
        assert not runner.has_word(), "more than rows"
        inside[2].say(pipe.Begun(), pipe.Failed("user_error", "no", "", 0))
        with pytest.raises(JobRefused):
            await running[2]
        inside.append(await runner.next_job())
        for each in (0, 1, 3, 4):
            inside[each].say(pipe.Begun(), pipe.Log(str(each)), DONE)
        assert await asyncio.gather(*(running[each] for each in (0, 1, 3, 4))) == [DONE] * 4
        assert [job.logged for job in jobs] == [["0"], ["1"], [], ["3"], ["4"]]


@pytest.mark.parametrize(
    "why", [{"merging": None}, {"mergeable": None}, {"mergeable": pipe.Mergeable(9.0, "too far off")}]
)
async def test_one_that_does_not_merge_has_one_job_at_a_time_and_is_put_back_in_between(
    tmp_path: Path, why: dict[str, None]
) -> None:
    async with family(tmp_path, **why) as played:
        runner = await played.runner()
        first, second = played.begin(Heard()), played.begin(Heard())
        inside = await runner.next_job()
        assert not inside.request.merge
        inside.say(pipe.Begun(), DONE)
        await first
        await settle()
        assert not runner.has_word(), "it has not said that it is clean"
        runner.say(pipe.Ready())
        (await runner.next_job()).say(pipe.Begun(), DONE)
        assert await second == DONE


async def test_the_time_limit_runs_from_when_its_turn_has_come(tmp_path: Path) -> None:
    async with family(tmp_path) as played:
        runner = await played.runner()
        first, waiting = Heard(), Heard()
        running = played.begin(first), played.begin(waiting, time_limit_s=0.2)
        one, other = [await runner.next_job() for _ in range(2)]
        one.say(pipe.Begun())
        await asyncio.sleep(0.5)
        assert not running[1].done()
        other.say(pipe.Begun())
        with pytest.raises(TimeoutError):
            await running[1]
        assert 0.2 <= waiting.seconds[0] < 0.5
        with pytest.raises(Disturbed):
            await running[0]


async def test_who_never_begins_though_nobody_is_in_its_way_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_runners, "_BEGINS_WITHIN_S", 0.2)
    async with family(tmp_path) as played:
        runner = await played.runner()
        job = Heard()
        running = played.begin(job, time_limit_s=0.1)
        await runner.next_job()
        with pytest.raises(RunnerDied) as died:
            await running
        assert (died.value.by_its_job, job.seconds) == (False, [])


async def _three(
    played: PlayedFamily, runner: PlayedProcess, *, limit_s: float = 60.0
) -> list[asyncio.Task[pipe.Done]]:
    """A culprit to be, one that has begun, one that has not."""
    running = [played.begin(Heard(), time_limit_s=limit_s), played.begin(Heard()), played.begin(Heard())]
    inside = [await runner.next_job() for _ in running]
    inside[0].say(pipe.Begun())
    inside[1].say(pipe.Begun())
    await settle()
    return running


@pytest.mark.parametrize("how", ["its time is up", "it is cancelled"])
async def test_a_job_that_takes_the_runner_with_it_is_the_only_one_to_end(tmp_path: Path, how: str) -> None:
    async with family(tmp_path) as played:
        runner = await played.runner()
        running = await _three(played, runner, limit_s=0.3 if how == "its time is up" else 60.0)
        if how == "it is cancelled":
            running[0].cancel()
        ends = await asyncio.gather(*running, return_exceptions=True)
        assert isinstance(ends[0], TimeoutError if how == "its time is up" else asyncio.CancelledError)
        assert [(type(end), end.begun, end.suspect) for end in ends[1:]] == [
            (Disturbed, True, False),
            (Disturbed, False, False),
        ]


async def test_a_job_that_is_cancelled_before_its_turn_disturbs_nobody(tmp_path: Path) -> None:
    async with family(tmp_path) as played:
        runner = await played.runner()
        running = [played.begin(Heard()) for _ in range(2)]
        inside = [await runner.next_job() for _ in running]
        inside[0].say(pipe.Begun())
        running[1].cancel()
        await asyncio.wait({running[1]})
        with pytest.raises(pipe.PipeError):
            inside[1].say(pipe.Begun())  # and so it does not begin
        await settle()
        inside[0].say(DONE)
        assert await running[0] == DONE


async def test_a_job_that_is_cancelled_when_it_has_said_that_it_begins_takes_the_runner_with_it(
    tmp_path: Path,
) -> None:
    async with family(tmp_path) as played:
        runner = await played.runner()
        running = [played.begin(Heard()) for _ in range(2)]
        inside = [await runner.next_job() for _ in running]
        inside[1].say(pipe.Begun())
        running[1].cancel()  # not a step of the loop later
        with pytest.raises(Disturbed):
            await running[0]


@pytest.mark.parametrize(
    ("turn", "suspects"),
    [
        (1, [True, False, False]),
        (2, [False, True, False]),
        (3, [True, True, False]),  # which it cannot have had: it has not begun
        (NOBODY, [True, True, False]),
        (2**64 - 1, [True, True, False]),
    ],
)
async def test_where_the_process_dies_by_itself_it_was_who_had_the_turn_if_that_is_known(
    tmp_path: Path, turn: int, suspects: list[bool]
) -> None:
    async with family(tmp_path) as played:
        runner = await played.runner()
        running = await _three(played, runner)
        assert runner.turn is not None
        runner.turn.note(turn, 0.1)
        played.end(runner.pid, -signal.SIGSEGV)
        ends = await asyncio.gather(*running, return_exceptions=True)
        assert [(type(end), end.begun) for end in ends] == [
            (Disturbed, True),
            (Disturbed, True),
            (Disturbed, False),
        ]
        assert [end.suspect for end in ends if isinstance(end, Disturbed)] == suspects


async def test_who_has_been_answered_is_no_suspect(tmp_path: Path) -> None:
    async with family(tmp_path) as played:
        runner = await played.runner()
        running = await _three(played, runner)
        assert runner.turn is not None
        runner.turn.note(1, 0.1)
        runner.jobs[0].say(DONE)
        assert await running[0] == DONE
        played.end(runner.pid, -signal.SIGSEGV)
        ends = await asyncio.gather(*running[1:], return_exceptions=True)
        assert [(type(end), end.suspect) for end in ends] == [(Disturbed, True), (Disturbed, False)]


async def test_who_had_the_turn_while_the_time_of_another_was_up_is_a_suspect(tmp_path: Path) -> None:
    async with family(tmp_path) as played:
        runner = await played.runner()
        running = await _three(played, runner, limit_s=0.3)
        assert runner.turn is not None
        runner.turn.note(2, 0.1)
        ends = await asyncio.gather(*running, return_exceptions=True)
        assert isinstance(ends[0], TimeoutError)
        assert [(type(end), end.suspect) for end in ends[1:]] == [(Disturbed, True), (Disturbed, False)]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others bear 0.2 seconds, and twice what the runner allows beside."""
    monkeypatch.setattr(turn_watch, "LEAST_S", 0.2)


@pytest.mark.usefixtures("impatient")
async def test_who_keeps_the_turn_for_too_long_is_ended_and_the_others_are_not_suspected(
    tmp_path: Path,
) -> None:
    async with family(tmp_path) as played:
        runner = await played.runner()
        running = await _three(played, runner)
        assert runner.turn is not None
        runner.turn.note(2, 0.1)
        began = time.monotonic()
        ends = await asyncio.gather(*running, return_exceptions=True)
        assert 0.4 <= time.monotonic() - began < 5
        assert [(type(end), end.begun, end.suspect) for end in ends if isinstance(end, Disturbed)] == [
            (Disturbed, True, False),
            (Disturbed, True, True),
            (Disturbed, False, False),
        ]


@pytest.mark.usefixtures("impatient")
async def test_whose_turn_it_is_when_the_process_is_dead_does_not_matter_then(tmp_path: Path) -> None:
    async with family(tmp_path) as played:
        runner = await played.runner()
        running = await _three(played, runner)
        turn = runner.turn
        assert turn is not None
        turn.note(1, 0.1)
        end = played.end

        def after_a_last_turn(pid: int, status: int) -> None:
            turn.note(2, 0.1)  # the call came back just before the process was ended
            end(pid, status)

        played.end = after_a_last_turn  # type: ignore[method-assign]
        ends = await asyncio.gather(*running, return_exceptions=True)
        assert [end.suspect for end in ends if isinstance(end, Disturbed)] == [True, False, False]


@pytest.mark.usefixtures("impatient")
async def test_many_short_turns_are_no_long_one(tmp_path: Path) -> None:
    async with family(tmp_path) as played:
        runner = await played.runner()
        running = await _three(played, runner)
        assert runner.turn is not None
        for _ in range(20):
            runner.turn.note(1, 0.1)
            await asyncio.sleep(0.05)
        runner.turn.note(2, 30.0)  # this one has a pass of its own
        await asyncio.sleep(1.0)
        runner.turn.note(NOBODY, 0.0)  # and now there is one for several
        await asyncio.sleep(1.0)
        for job in runner.jobs:
            job.say(pipe.Begun(), DONE)
        assert await asyncio.gather(*running) == [DONE] * 3


@pytest.mark.usefixtures("impatient")
async def test_who_keeps_nobody_may_have_the_turn_for_ever_and_others_wait_from_when_they_came(
    tmp_path: Path,
) -> None:
    async with family(tmp_path) as played:
        runner = await played.runner()
        running = [played.begin(Heard())]
        (await runner.next_job()).say(pipe.Begun())
        assert runner.turn is not None
        runner.turn.note(1, 0.5)
        await asyncio.sleep(2.0)
        assert not running[0].done()
        running.append(played.begin(Heard()))
        await runner.next_job()
        began = time.monotonic()
        ends = await asyncio.gather(*running, return_exceptions=True)
        assert 1.2 <= time.monotonic() - began < 5
        assert [end.suspect for end in ends if isinstance(end, Disturbed)] == [True, False]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("number", [3, 4, 2**64 - 1])
async def test_of_a_turn_that_nobody_can_have_all_that_had_begun_are_suspects(
    tmp_path: Path, number: int
) -> None:
    async with family(tmp_path) as played:
        runner = await played.runner()
        running = await _three(played, runner)
        assert runner.turn is not None
        runner.turn.note(number, 0.0)
        ends = await asyncio.gather(*running, return_exceptions=True)
        assert [end.suspect for end in ends if isinstance(end, Disturbed)] == [True, True, False]


@pytest.mark.usefixtures("impatient")
async def test_who_is_left_alone_with_its_long_turn_is_run_again_too(tmp_path: Path) -> None:
    async with family(tmp_path) as played:
        runner = await played.runner()
        running = [played.begin(Heard()) for _ in range(2)]
        one, other = [await runner.next_job() for _ in range(2)]
        one.say(pipe.Begun())
        assert runner.turn is not None
        runner.turn.note(1, 0.0)
        end = played.end

        def late(pid: int, status: int) -> None:
            running[1].cancel()
            asyncio.get_running_loop().call_later(0.2, end, pid, status)

        played.end = late  # type: ignore[method-assign]
        ends = await asyncio.gather(*running, return_exceptions=True)
        assert isinstance(ends[0], Disturbed)
        assert ends[0].suspect
        assert isinstance(ends[1], asyncio.CancelledError)
        other.close()


@pytest.mark.parametrize("alone", [False, True])
async def test_who_had_it_to_itself_is_told_of_the_death(tmp_path: Path, alone: bool) -> None:
    async with family(tmp_path) as played:
        runner, _ = await played.shared()
        running = played.begin(Heard(), alone=alone)
        runner = await played.runner() if alone else runner
        (await runner.next_job()).say(pipe.Begun())
        await settle()
        played.end(runner.pid, -signal.SIGSEGV)
        with pytest.raises(RunnerDied) as died:
            await running
        assert (died.value.status, died.value.by_its_job) == (-signal.SIGSEGV, False)


async def test_what_was_answered_before_the_death_counts(tmp_path: Path) -> None:
    async with family(tmp_path) as played:
        runner = await played.runner()
        running = played.begin(Heard())
        inside = await runner.next_job()
        inside.say(pipe.Begun(), *(pipe.Log("x") for _ in range(100)), DONE)
        played.end(runner.pid, 1)
        assert await running == DONE


async def test_alone_means_that_nobody_else_is_in_the_runner_and_the_others_go_on_in_theirs(
    tmp_path: Path,
) -> None:
    async with family(tmp_path) as played:
        runner, reserve = await played.shared()
        before = played.begin(Heard())
        first = await runner.next_job()
        alone, after = played.begin(Heard(), alone=True), played.begin(Heard())
        aside = await played.runner()
        inside = await aside.next_job()
        inside.say(pipe.Begun())
        for job in (first, await runner.next_job()):
            job.say(pipe.Begun(), DONE)
        assert await asyncio.gather(before, after) == [DONE, DONE]
        assert not alone.done()
        assert not any(each.has_word() for each in (aside, reserve))
        inside.say(DONE)
        assert await alone == DONE


async def test_as_many_as_may_run_alone_at_once_and_one_of_them_after_the_other_in_a_runner(
    tmp_path: Path,
) -> None:
    async with family(tmp_path) as played:
        runner, reserve = await played.shared()
        running = [played.begin(Heard(), alone=True) for _ in range(shared_stock.MOST - 1)]
        beside = [await played.runner() for _ in range(shared_stock.MOST - 2)]
        inside = [await each.next_job() for each in beside]
        together = played.begin(Heard())
        (await runner.next_job()).say(pipe.Begun(), DONE)
        assert await together == DONE
        await settle()
        assert not any(each.has_word() for each in (runner, reserve, *beside)), "the reserve is not for them"
        assert played.runners.empty()
        inside[1].say(pipe.Begun(), DONE)
        (await beside[1].next_job()).say(pipe.Begun(), DONE)
        for job in (inside[0], inside[2]):
            job.say(pipe.Begun(), DONE)
        assert await asyncio.gather(*running) == [DONE] * len(running)


async def test_what_was_made_for_jobs_alone_goes_when_none_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_IDLE_S", 0.2)
    async with family(tmp_path) as played:
        runner, reserve = await played.shared()
        running = [played.begin(Heard(), alone=True) for _ in range(2)]
        for _ in running:
            (await (await played.runner()).next_job()).say(pipe.Begun(), DONE)
        await asyncio.gather(*running)
        assert len(played.there) == 4
        async with asyncio.timeout(20):
            while len(played.there) > 2:
                await asyncio.sleep(0.05)
        await settle()
        assert set(played.there) == {runner.pid, reserve.pid}


async def test_one_that_stands_by_takes_the_place_of_one_that_died(tmp_path: Path) -> None:
    async with family(tmp_path) as played:
        runner, reserve = await played.shared()
        running = [played.begin(Heard()) for _ in range(2)]
        for _ in running:
            (await runner.next_job()).say(pipe.Begun())
        await settle()
        played.end(runner.pid, -signal.SIGKILL)
        assert {type(each) for each in await asyncio.gather(*running, return_exceptions=True)} == {Disturbed}
        again = [played.begin(Heard()) for _ in range(2)]
        for _ in again:
            (await reserve.next_job()).say(pipe.Begun(), DONE)
        assert await asyncio.gather(*again) == [DONE, DONE]
        assert played.runners.qsize() == 1, "and the next one stands by"


async def test_a_runner_that_is_spoiled_is_replaced_and_who_had_not_begun_loses_nothing(
    tmp_path: Path,
) -> None:
    async with family(tmp_path) as played:
        runner = await played.runner()
        running = played.begin(Heard())
        await runner.next_job()
        runner.say(pipe.Tainted("an earlier job left a hook"))
        with pytest.raises(Disturbed) as disturbed:
            await running
        assert not disturbed.value.begun
        assert (await played.runner()).pid != runner.pid


async def test_that_a_job_wants_to_be_alone_ends_it_and_not_the_others(tmp_path: Path) -> None:
    async with family(tmp_path) as played:
        runner = await played.runner()
        running = [played.begin(Heard()) for _ in range(2)]
        inside = [await runner.next_job() for _ in range(2)]
        inside[0].say(pipe.Begun(), pipe.RunAlone("gradients"))
        with pytest.raises(AskedAlone, match="gradients"):
            await running[0]
        inside[1].say(pipe.Begun(), DONE)
        assert await running[1] == DONE


async def test_nonsense_on_a_jobs_socket_ends_the_runner(tmp_path: Path) -> None:
    async with family(tmp_path) as played:
        runner = await played.runner()
        running = played.begin(Heard())
        (await runner.next_job()).sock.send(b"\xc1")
        with pytest.raises(RunnerDied):
            await running
        assert played.there.keys().isdisjoint({runner.pid})


async def test_that_it_is_ready_may_be_heard_before_the_answer_that_it_gave_first(tmp_path: Path) -> None:
    async with family(tmp_path, merging=None) as played:
        runner = await played.runner()
        for _ in range(3):
            running = played.begin(Heard())
            inside = await runner.next_job()
            # Two sockets: which of them is heard first is chance, and here this one.
            runner.say(pipe.Ready())
            inside.say(pipe.Begun(), DONE)
            async with asyncio.timeout(10):
                assert await running == DONE
