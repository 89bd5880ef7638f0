"""For how long the code of one job may keep others waiting."""

import os
import threading
import time

import pytest

from edif.executor.merging.patience import LEAST_S, MOST_S, Patience, Stretch, Taken


def test_as_long_as_nothing_is_known_it_is_the_longest() -> None:
    assert Patience().seconds == MOST_S


@pytest.mark.parametrize(
    ("beginnings", "passes", "seconds"),
    [
        ([0.001], [], LEAST_S),
        ([0.02], [], 0.16),
        ([0.02, 0.02, 30.0], [], 0.16),  # one sluggard does not make another
        ([0.001], [0.4], 0.2),
        ([0.001] * 20 + [0.03] * 15, [], 0.24),  # what was long ago is forgotten
        ([10.0], [10.0], MOST_S),
    ],
)
def test_it_is_several_times_what_is_usual(
    beginnings: list[float], passes: list[float], seconds: float
) -> None:
    patience = Patience()
    for each in beginnings:
        patience.began(each)
    for each in passes:
        patience.passed(each)
    assert patience.seconds == pytest.approx(seconds)


def test_in_all_visits_together_a_job_may_take_as_long_as_the_model_and_several_visits_beside() -> None:
    taken = Taken(0.05)
    # At each step 45 ms of one job, 5 of another, and 10 of the model.
    late = [
        (step, taken.note(0, 0.045, 0.06 * step), taken.note(1, 0.005, 0.06 * step)) for step in range(1, 11)
    ]
    assert [step for step, one, _ in late if one] == [6, 7, 8, 9, 10]
    assert not any(other for _, _, other in late)


def test_where_visits_take_less_than_the_model_they_may_be_as_many_as_there_are_steps() -> None:
    taken = Taken(0.05)
    steps = range(1, 1_001)
    assert not any(taken.note(number, 0.009, 0.046 * step) for step in steps for number in range(4))


def test_a_sleep_counts() -> None:
    stretch = Stretch()
    time.sleep(0.2)
    assert stretch.seconds >= 0.15
    stretch.begin()
    assert stretch.seconds < 0.15


def test_what_a_thread_waits_for_a_processor_does_not() -> None:
    """Two threads on one processor get half of it each; a spinning child stands for the rest of a busy machine."""
    everywhere = os.sched_getaffinity(0)
    found: list[tuple[float, float]] = []

    def spin() -> None:
        os.sched_setaffinity(0, {min(everywhere)})
        stretch, began = Stretch(), time.monotonic()
        while time.monotonic() < began + 1.0:
            pass
        found.append((stretch.seconds, time.monotonic() - began))

    child = os.fork()
    if child == 0:
        os.sched_setaffinity(0, {min(everywhere)})
        while True:
            pass
    try:
        thread = threading.Thread(target=spin)
        thread.start()
        thread.join()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    (own, wall), *_ = found
    assert own < 0.8 * wall
