"""Whose turn it is, seen from outside the process that says so."""

import os
import time

import pytest

from edif.wire import turn_register
from edif.wire.turn_register import NOBODY, TurnNote, TurnRegister


def test_what_the_runner_notes_is_read_by_the_other_side_while_it_lives_and_after_its_death() -> None:
    fd = turn_register.make()
    try:
        assert turn_register.read(fd) == TurnNote(NOBODY, 0.0, 0.0)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            register = TurnRegister(os.dup(fd))
            register.note(7, 30.0)
            register.note(2**40, 0.25)
            os.kill(os.getpid(), 9)
        os.waitpid(child, 0)
        number, since_s, most_s = turn_register.read(fd)
        assert (number, most_s) == (2**40, 0.25)
        assert began <= since_s <= time.monotonic(), "the clock is that of all processes"
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [0, 7, 23])
def test_one_that_the_runner_has_cut_says_nobody(size: int) -> None:
    fd = turn_register.make()
    try:
        TurnRegister(os.dup(fd)).note(2**64 - 1, 1.0)
        assert turn_register.read(fd).number == 2**64 - 1
        os.ftruncate(fd, size)
        assert turn_register.read(fd) == TurnNote()
    finally:
        os.close(fd)
