"""What an attempt is charged for passes that it is said to have shared, by whoever says so."""

import time

import pytest

from edif.wire import link, pipe
from edif.worker.progress import Progress
from fuzz.pipe_messages import RUN

INFINITE = float("inf")


def _usage(*passes: pipe.Shared, run_s: float = 8.0) -> link.Usage:
    progress = Progress(RUN, lambda _: None)
    progress._began = time.monotonic() - 10
    for each in passes:
        progress.shared(each)
    progress.spent(run_s, 0)
    return progress.usage


def test_waiting_for_a_pass_costs_nothing_and_the_pass_its_part() -> None:
    usage = _usage(pipe.Shared(1, 4, 1, 2.0, 3.0), pipe.Shared(1, 2, 1, 1.0, 1.0))
    assert (usage.run_s, usage.shared_passes, usage.shared_rows) == (8.0, 2, 4)
    assert usage.charged_s == pytest.approx(8.0 - 4.0 + 0.5 + 0.5)


def test_who_was_alone_in_it_bears_all_of_it() -> None:
    assert _usage(pipe.Shared(1, 2, 2, 1.0, 1.0)).charged_s == pytest.approx(8.0)
    assert _usage(pipe.Shared(1, 2, 2**62, 1.0, 3.0)).charged_s == pytest.approx(6.0), "nor more than all"


@pytest.mark.parametrize("rows", [(0, 0), (0, 5), (4, 0)])
def test_a_pass_without_rows_of_it_is_none(rows: tuple[int, int]) -> None:
    usage = _usage(pipe.Shared(1, *rows, INFINITE, INFINITE))
    assert (usage.shared_passes, usage.charged_s) == (0, 8.0)


@pytest.mark.parametrize(
    ("said", "charged_s"),
    [
        (pipe.Shared(1, 2, 1, INFINITE, INFINITE), 5.0),
        (pipe.Shared(1, 2, 1, 1e300, 1e300), 5.0),
        (pipe.Shared(1, 2, 1, INFINITE, 0.0), 8.0),
        (pipe.Shared(1, 2, 1, 0.0, INFINITE), 0.0),
    ],
)
def test_no_pass_took_longer_than_there_was_time_for(said: pipe.Shared, charged_s: float) -> None:
    assert _usage(said).charged_s == pytest.approx(charged_s, abs=0.1)


def test_what_is_charged_lies_between_nothing_and_all() -> None:
    assert 0.0 <= _usage(*[pipe.Shared(1, 8, 1, 0.0, 9.0)] * 5).charged_s <= 8.0
    assert 0.0 <= _usage(*[pipe.Shared(1, 2, 2, 9.0, 9.0)] * 5).charged_s <= 8.0
