"""The closed loop of ``bench/closed_loop.py``: how many jobs are under way, and what is counted of them."""

import asyncio

import pytest
from bench.closed_loop import Finished, Window, keep_busy

from edif.wire import pipe
from tests.support.programs.serving import Outcome


def _finished(
    began: float, ended: float, cpu_s: float, *passes: tuple[int, float], why_alone: str = ""
) -> Finished:
    shared = tuple(pipe.Shared(0, rows, 1, seconds, seconds) for rows, seconds in passes)
    return Finished(Outcome(b"", shared=shared, why_alone=why_alone), began, ended, cpu_s)


class _Server:
    """Notes how many jobs it has; each takes it some turns of the loop."""

    def __init__(self) -> None:
        self.most = 0
        self.begun = 0
        self._now = 0

    async def run(self, number: int) -> Outcome:
        assert number == self.begun
        self.begun += 1
        self._now += 1
        self.most = max(self.most, self._now)
        for _ in range(3):
            await asyncio.sleep(0)
        self._now -= 1
        return Outcome(str(number).encode())


def test_a_window_begins_with_the_end_of_the_job_before_it() -> None:
    jobs = [
        _finished(0.0, 5.0, 1.0),
        _finished(0.0, 6.0, 1.5, (2, 0.5)),
        _finished(5.0, 7.0, 1.75, (2, 0.5), (4, 0.25), why_alone="too slow"),
        _finished(6.0, 9.0, 2.5),
    ]
    window = Window.after(1, jobs)
    assert window.jobs_per_second == pytest.approx(3 / 4)
    assert window.cpu_per_job_s == pytest.approx(1.5 / 3)
    assert window.passes == [(2, 0.5), (4, 0.25)]  # of the first, two tell
    assert window.rows_per_pass == 3.0
    assert window.in_company == pytest.approx(2 / 3)
    assert window.again == {"too slow": 1}
    assert window.time_in_replica(0.5) == 3.0
    assert window.time_in_replica(0.0) == 2.0


def test_where_nobody_shared_a_pass_there_are_no_rows() -> None:
    assert Window.after(1, [_finished(0, 1, 0), _finished(1, 2, 0)]).rows_per_pass is None


async def test_all_clients_are_busy_until_the_last_job_that_counts_has_ended() -> None:
    server = _Server()
    window = await keep_busy(server.run, 3, 6)
    # Those of the warm-up were the first three.
    assert {each.outcome.result for each in window.jobs} == {b"3", b"4", b"5", b"6", b"7", b"8"}
    assert server.most == 3
    assert server.begun > 9  # what is sent last does not count


async def test_one_client_sends_one_job_at_a_time() -> None:
    server = _Server()
    window = await keep_busy(server.run, 1, 4)
    assert (server.most, len(window.jobs), server.begun) == (1, 4, 5)


async def test_a_job_without_a_result_ends_the_measurement() -> None:
    async def run(_: int) -> Outcome:
        return Outcome(None, "user_code", "it raised")

    with pytest.raises(ExceptionGroup) as caught:
        await keep_busy(run, 2, 4)
    assert caught.group_contains(RuntimeError, match="it raised")
