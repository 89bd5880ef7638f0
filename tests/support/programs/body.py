"""The lines of one block: what a program does in one forward pass, or in one step of a generation."""

import random
from dataclasses import dataclass, field

from tests.support.programs.places import Place, backbone, places

_PREFERRED = {"block": 5, "attention": 3, "mlp": 3, "head": 3, "embedding": 2, "root": 2}

LAST = 10_000
"""After all places."""


@dataclass(slots=True)
class Body:
    """Statements in the order in which the model reaches what they name.

    Attributes:
        chance: where all randomness comes from.
        family: for which model.
        model: the name by which it is reached.
        seen: the saved list to which values are appended.
        length: tokens that each pass has at least.
        prefix: of all names that it binds.
        elements: what occurs, a set that several bodies share.
        repeated: it stands in a loop.
    """

    chance: random.Random
    family: str
    model: str
    seen: str
    length: int
    prefix: str
    elements: set[str]
    repeated: bool = False
    places: tuple[Place, ...] = ()
    _lines: list[tuple[int, list[str]]] = field(default_factory=list)
    _first: list[str] = field(default_factory=list)
    _names: int = 0

    def __post_init__(self) -> None:
        self.places = places(self.family)

    # -- writing ---------------------------------------------------------------------------------------
    def first(self, *lines: str) -> None:
        """Before anything is read."""
        self._first += lines

    def at(self, order: int, *lines: str) -> None:
        """When the place of this number is reached."""
        self._lines.append((order, list(lines)))

    def name(self) -> str:
        self._names += 1
        return f"{self.prefix}{self._names}"

    def save(self, value: str) -> str:
        """The statement that keeps a value whole. Saved is what a name stands for at the end, so in a loop a list keeps it."""
        return f"{self.seen}.append({value})" if self.repeated else f"{self.name()} = {value}.save()"

    def note(self, *elements: str) -> None:
        self.elements.update(elements)

    def cut(self, order: int) -> None:
        """Leave out all that comes after this place."""
        self._lines = [(each, lines) for each, lines in self._lines if each <= order]

    def text(self) -> list[str]:
        ordered = sorted(self._lines, key=lambda each: each[0])
        return [*self._first, *(line for _, lines in ordered for line in lines)]

    # -- choosing --------------------------------------------------------------------------------------
    def order(self, *groups: str, width: int | None = None, after: int = -1, before: int = LAST) -> int:
        """The number of a place of these groups, of all that hold vectors when none is named."""
        found = [
            number
            for number, place in enumerate(self.places)
            if after < number < before
            and (place.group in groups if groups else place.group not in ("tokens", "unbatched"))
            and (width is None or place.width == width)
        ]
        weights = [_PREFERRED.get(self.places[number].group, 1) for number in found]
        return self.chance.choices(found, weights)[0]

    def number_of(self, path: str, slot: str) -> int:
        return next(
            number for number, place in enumerate(self.places) if (place.path, place.slot) == (path, slot)
        )

    def tensor(self, order: int) -> str:
        return self.places[order].tensor(self.model)

    def position(self) -> str:
        """An index or slice of positions that selects one token at least."""
        if self.length < 4:
            return self.chance.choice(["-1", "0", ":"])
        return self.chance.choice(
            ["-1", "0", "2", ":", "1:", ":2", "::2", "[0, -1]", f"{self.length // 2}:", "-2"]
        )

    def constant(self) -> str:
        return str(self.chance.choice([0.0, 0.5, 1.5, -1.0, 2.0, -0.25]))

    def channels(self, width: int) -> str:
        start = self.chance.randrange(0, width - 4)
        return f"{start}:{self.chance.randrange(start + 1, width + 1)}"

    def vector(self, width: int, scale: float = 1.0) -> tuple[str, str]:
        """The statement that makes a constant vector, and the vector's name."""
        name = self.name()
        seed = self.chance.randrange(1000)
        self.note("steering")
        return (
            f"{name} = {scale} * torch.randn({width}, generator=torch.Generator().manual_seed({seed}))",
            name,
        )

    def lens(self, hidden: str) -> str:
        """The logits of a hidden state, as if its layer were the last."""
        self.note("logit-lens")
        return f"{self.model}.lm_head({self.model}.{backbone(self.family)[1]}({hidden}))"
