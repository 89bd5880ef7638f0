"""One drawn program: its source, and what is known of it before it runs."""

import re
from dataclasses import dataclass

FAMILIES = ("gpt2", "llama")

Batch = tuple[tuple[int, ...], ...]
"""Token ids of some rows."""

_SAVED = re.compile(r"(\w+) = (?:nnsight\.save\(|tracer\.cache\(|.*\.save\(\))")


@dataclass(frozen=True, slots=True)
class Program:
    """A function ``program(model, backend)`` in which one request is made.

    Attributes:
        name: of its own among all programs of both families.
        family: the architecture for which it is written.
        kind: what is sent: one of ``drawing.KINDS``, or what a misfit of ``misfits.py`` does.
        source: the module's text; it defines ``program``.
        prompts: the rows of each input, in the order of the passes and invokes.
        elements: what of the grammar occurs in it.
        raises: what the error says with which it ends, None if it ends well.
        lone: it needs a forward pass of its own: gradients, ``.source``, ``.skip``, sampling, edited weights.
        steps: how many tokens it generates at most, 0 for a trace.
    """

    name: str
    family: str
    kind: str
    source: str
    prompts: tuple[Batch, ...]
    elements: frozenset[str] = frozenset()
    raises: str | None = None
    lone: bool = False
    steps: int = 0

    @property
    def rows(self) -> int:
        """Rows of its first pass."""
        batches = self.prompts[:1] if self.kind == "session" else self.prompts
        return sum(len(batch) for batch in batches)

    @property
    def length(self) -> int:
        """Tokens of a row of its first pass, the padding included."""
        batches = self.prompts[:1] if self.kind == "session" else self.prompts
        return max(len(row) for batch in batches for row in batch)

    @property
    def ragged(self) -> bool:
        """Whether some of its rows are padded even when it runs alone."""
        return any(len({len(row) for row in batch}) > 1 for batch in self.prompts)

    @property
    def saves(self) -> frozenset[str]:
        """The names that it saves expressly.

        Saved is an object: a result has its other names too, as when ``.output`` is read twice and one of both is saved.
        """
        return frozenset(_SAVED.findall(self.source))
