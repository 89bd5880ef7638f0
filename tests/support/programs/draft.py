"""A program while it is drawn, and the ways in which its blocks are filled."""

import random
from dataclasses import dataclass, field
from textwrap import indent

from tests.support.models import WORDS
from tests.support.programs.body import Body
from tests.support.programs.edits import EDITS
from tests.support.programs.program import Batch, Program
from tests.support.programs.reads import READS, keys, last

HEADER = """\
import nnsight
import numpy as np
import torch


def program(model, backend):
"""
_LENGTHS = {8: 6, 12: 3, 4: 2}
_ROWS = {1: 6, 2: 3, 3: 1, 4: 1}
_FIRST_WORD = 2
"""The tokens before it are the unknown word's and the padding's."""


@dataclass(slots=True)
class Draft:
    """A program while it is drawn."""

    chance: random.Random
    family: str
    name: str
    lines: list[str] = field(default_factory=list)
    prompts: list[Batch] = field(default_factory=list)
    elements: set[str] = field(default_factory=set)
    raises: str | None = None
    steps: int = 0
    _bodies: int = 0

    def program(self, kind: str, *, lone: bool) -> Program:
        return Program(
            name=self.name,
            family=self.family,
            kind=kind,
            source=HEADER + indent("\n".join(self.lines), "    ") + "\n",
            prompts=tuple(self.prompts),
            elements=frozenset(self.elements),
            raises=self.raises,
            lone=lone,
            steps=self.steps,
        )

    def write(self, depth: int, *lines: str) -> None:
        self.lines += ["    " * depth + line for line in lines]

    def length(self) -> int:
        return self.chance.choices(list(_LENGTHS), list(_LENGTHS.values()))[0]

    def batch(self, length: int, rows: int | None = None, *, ragged: bool = False) -> Batch:
        """Rows of random tokens; ``ragged`` ones differ in length, up to ``length``."""
        rows = rows or self.chance.choices(list(_ROWS), list(_ROWS.values()))[0]
        lengths = [length] * rows
        if ragged:
            self.elements.add("ragged")
            lengths = [length, *(self.chance.randrange(2, length) for _ in range(max(rows - 1, 1)))]
        last_word = _FIRST_WORD + len(WORDS)
        return tuple(
            tuple(self.chance.randrange(_FIRST_WORD, last_word) for _ in range(each)) for each in lengths
        )

    def given(self, batch: Batch) -> str:
        """The prompt as an argument: as text, or as token ids in one of their forms."""
        self.prompts.append(batch)
        rows = [list(row) for row in batch]
        even = len({len(row) for row in batch}) == 1
        form = self.chance.choice(
            ["tensor", "tensor", "list", "keyword", "text"] if even else ["list", "text"]
        )
        if form == "text":
            self.elements.add("text")
            texts = [" ".join(WORDS[token - _FIRST_WORD] for token in row) for row in rows]
            return repr(texts[0] if len(texts) == 1 else texts)
        self.elements.add(f"ids-{form}")
        match form:
            case "tensor":
                return f"torch.tensor({rows})"
            case "keyword":
                return f"input_ids=torch.tensor({rows})"
            case _:
                return repr(rows)

    def body(self, length: int, model: str = "model", *, repeated: bool = False) -> Body:
        self._bodies += 1
        letter = "abcdefgh"[self._bodies - 1]
        return Body(
            self.chance, self.family, model, f"seen_{letter}", length, f"{letter}_", self.elements, repeated
        )


def fill(body: Body, *, edits: int = 3, reads: int = 3) -> None:
    """Some edits and reads, up to so many of each, and at the end a value in which every edit shows."""
    chance = body.chance
    for edit in chance.choices(list(EDITS), list(EDITS.values()), k=chance.randint(0, edits)):
        edit(body)
    for read in chance.choices(list(READS), list(READS.values()), k=chance.randint(1, reads)):
        read(body)
    last(body)
    if chance.random() < 0.06:
        keys(body)
