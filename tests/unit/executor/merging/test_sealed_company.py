"""A sealed job whose driver is gone goes on by itself."""

import socket
from collections.abc import Iterator

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
