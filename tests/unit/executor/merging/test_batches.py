"""Which jobs of a shared runner run together."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from edif.executor.merging import batches as batches_module
from edif.executor.merging.batches import Batches
from edif.wire import pipe


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = pipe.pair()
    with ours, theirs:
        yield ours, theirs


def enter(sock: socket.socket, jobs: int = 1) -> None:
    """So many jobs are announced; what is said on their sockets makes no difference."""
    for _ in range(jobs):
        near, far = pipe.pair()
        with near, far:
            pipe.send(sock, pipe.Enter(), (far.fileno(),))


def closed(jobs: Iterator[socket.socket]) -> int:
    """How many there are."""
    count = 0
    for each in jobs:
        each.close()
        count += 1
    return count


def test_those_that_are_there_run_together_but_no_more_than_may(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    batches = Batches(theirs, 3)
    enter(ours, 5)
    assert [closed(batches.next()), closed(batches.next())] == [3, 2]


def test_each_is_handed_out_before_the_next_one_is_looked_for(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    enter(ours)
    jobs = Batches(theirs, 8).next()
    next(jobs).close()
    enter(ours)  # while the first one runs
    assert closed(jobs) == 1


@pytest.mark.parametrize("together", [1, 2])
def test_as_many_as_the_last_time_are_waited_for(
    together: int, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was by himself the last time waits for nobody."""
    monkeypatch.setattr(batches_module, "_LONGEST_WAIT_S", 20.0)
    monkeypatch.setattr(batches_module, "_SHARE_OF_BATCH", 1e6)
    ours, theirs = pair
    batches = Batches(theirs, 8)
    enter(ours, together)
    assert closed(batches.next()) == together
    enter(ours)
    late = threading.Timer(0.3, enter, (ours,))
    late.start()
    began = time.monotonic()
    assert closed(batches.next()) == together
    assert time.monotonic() - began < 10.0
    late.join()


def test_the_end_of_the_pipe_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.close()
    with pytest.raises(pipe.PipeError):
        next(Batches(theirs, 8).next())
