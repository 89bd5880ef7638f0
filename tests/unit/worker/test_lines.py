"""What is said on one socket is heard in turns, and no more of it than may be said."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from edif.wire import pipe
from edif.worker.lines import Line

MOST = 3


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = pipe.pair()
    with ours, theirs:
        yield ours, theirs


async def test_who_says_too_much_is_told_of_once_and_not_heard_any_more(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """Its end is asked for, of the process that has to see to everybody's."""
    ours, theirs = pair
    heard: list[Any] = []
    broken: list[None] = []
    line = Line[Any](ours, pipe.from_runner, heard.append, lambda: broken.append(None), MOST)
    line.listen()
    for _ in range(MOST + 50):
        pipe.send(theirs, pipe.Begun())
    await asyncio.sleep(0.05)
    line.drain()
    assert heard == [pipe.Begun()] * MOST
    assert len(broken) == 1
    line.close()


async def test_each_job_may_say_as_much(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    heard: list[Any] = []
    line = Line[Any](ours, pipe.from_runner, heard.append, lambda: pytest.fail("it was not too much"), MOST)
    for _ in range(2):
        line.count_anew()
        for _ in range(MOST):
            pipe.send(theirs, pipe.Begun())
        line.drain()
    assert len(heard) == 2 * MOST
    line.close()
