"""A sealed job's side of its seat: with a driver, and when that is gone."""

import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch

from edif.executor.merging.layout import Layout
from edif.executor.merging.sealed import SealedCompany
from edif.wire import pipe, seat


@pytest.fixture
def ends() -> Iterator[tuple[SealedCompany, socket.socket]]:
    """A job's company, and the driver's end of its seat."""
    ours, theirs = pipe.pair()
    with ours, theirs:
        yield SealedCompany(ours, torch.nn.Linear(1, 1), Layout(), lambda: ""), theirs


def test_a_pass_of_its_own_needs_no_driver(ends: tuple[SealedCompany, socket.socket]) -> None:
    made, driver = ends
    driver.close()
    with made.alone():
        pass
    assert not made.shares, "nor does it ask again"
    assert made.misfits == []


def test_a_driver_that_dies_while_the_job_waits_for_its_turn_keeps_it_from_nothing(
    ends: tuple[SealedCompany, socket.socket],
) -> None:
    made, driver = ends
    pipe.send(driver, seat.Over(failed=False))  # something else comes first
    driver.close()
    with made.alone():
        pass
    assert not made.is_there
    assert made.misfits == []


def test_a_driver_that_dies_during_the_jobs_own_pass_spoils_nothing(
    ends: tuple[SealedCompany, socket.socket],
) -> None:
    made, driver = ends
    pipe.send(driver, seat.Alone())
    with made.alone():
        driver.close()
    assert made.misfits == []
    assert not made.shares


@pytest.mark.parametrize("whole", [True, False])
def test_the_driver_hears_whether_a_pass_came_to_its_end(
    whole: bool, ends: tuple[SealedCompany, socket.socket]
) -> None:
    """What one takes that the job stops says nothing of how long passes of its size are."""
    made, driver = ends
    pipe.send(driver, seat.Alone())
    with suppress(ValueError), made.alone():
        if not whole:
            raise ValueError
    assert pipe.receive(driver, seat.to_driver)[0] == seat.AskAlone()
    assert pipe.receive(driver, seat.to_driver)[0] == seat.AloneOver(whole)
