"""Crowds of a hundred jobs of which some go wrong: one in ten raises, one in ten stops early, one in fifty sleeps, one is killed."""

import random
from dataclasses import dataclass

from tests.support.programs.drawing import draw
from tests.support.programs.misfits import killed, raising, sleeping, stopping
from tests.support.programs.program import Program

RAISING, STOPPING, SLEEPING, KILLED = 10, 10, 2, 1
INNOCENT = 100 - RAISING - STOPPING - SLEEPING - KILLED
SLEEP_S = 0.7
"""Longer than any pass waits for a job."""
_LONGEST = 12
"""Tokens of the longest misfit."""
_LAYERS = 3


@dataclass(frozen=True, slots=True)
class Crowd:
    """
    Attributes:
        innocent: programs that come to a good end.
        misfits: programs that do not, or take their time; some stand in it several times.
        order: in which all of them are begun.
    """

    innocent: tuple[Program, ...]
    misfits: tuple[Program, ...]
    order: tuple[Program, ...]


def crowd(number: int, family: str) -> Crowd:
    """The crowd of this number: the same at every call.

    Misfits have the lengths of innocent programs, so that they share passes with them.
    """
    chance = random.Random(f"crowd {number} {family}")
    innocent: list[Program] = []
    seed = number * 1_000
    while len(innocent) < INNOCENT:
        program = draw(seed, family)
        seed += 1
        if program.raises is None:
            innocent.append(program)
    lengths = [each.length for each in innocent if each.length <= _LONGEST and not each.lone]
    misfits: list[Program] = []
    for make, count in ((raising, RAISING), (stopping, STOPPING), (killed, KILLED)):
        misfits += (
            make(family, chance.choice(lengths), layer=chance.randrange(_LAYERS)) for _ in range(count)
        )
    misfits += (sleeping(family, SLEEP_S, chance.choice(lengths)) for _ in range(SLEEPING))
    order = [*innocent, *misfits]
    chance.shuffle(order)
    return Crowd(tuple(innocent), tuple(misfits), tuple(order))
