"""A sealed job's side of its seat: with a driver, and when that is gone."""

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch

from edif.executor.merging import traces
from edif.executor.merging.layout import Layout
from edif.executor.merging.sealed import SealedCompany
from edif.executor.untouched import Untouched
from edif.executor.weights import WeightArena
from edif.wire import pipe, seat
from tests.unit.executor.merging import tiny
from tests.unit.executor.merging.jobs import Site
from tests.unit.executor.merging.tiny import prompt


@pytest.fixture
def ends() -> Iterator[tuple[SealedCompany, socket.socket]]:
    """A job's company, and the driver's end of its seat."""
    module = tiny.gpt2()._module
    untouched = Untouched(module, WeightArena(module).guard())
    ours, theirs = pipe.pair()
    with ours, theirs:
        yield SealedCompany(ours, module, Layout(), untouched), theirs


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
def test_the_driver_hears_what_a_pass_took_if_it_came_to_its_end(
    whole: bool, ends: tuple[SealedCompany, socket.socket]
) -> None:
    """What one takes that the job stops says nothing of how long passes of its size are."""
    made, driver = ends
    pipe.send(driver, seat.Alone())
    with suppress(ValueError), made.alone():
        until = time.process_time() + 0.01
        while time.process_time() < until:
            pass
        if not whole:
            raise ValueError
    assert pipe.receive(driver, seat.to_driver)[0] == seat.AskAlone()
    over = pipe.receive(driver, seat.to_driver)[0]
    assert isinstance(over, seat.AloneOver)
    assert over.used_us is None if not whole else over.used_us >= 10_000


def test_a_thread_of_the_job_runs_its_traces_as_if_there_were_no_company(gpt2: Site) -> None:
    """The seat is the job's: two that speak on it at once would hear each other's answers."""
    ours, driver = pipe.pair()
    ran: list[torch.Tensor] = []

    def trace() -> None:
        with gpt2.model.trace(prompt(3)):
            logits = gpt2.model.lm_head.output.save()
        ran.append(logits)

    with ours, driver:
        traces.enter(SealedCompany(ours, gpt2.loaded.module, gpt2.layout, gpt2.untouched))
        try:
            thread = threading.Thread(target=trace)
            thread.start()
            thread.join(30)
        finally:
            traces.enter(None)
        assert not select.select([driver], [], [], 0)[0]
    assert [each.shape[:2] for each in ran] == [(1, 5)]
