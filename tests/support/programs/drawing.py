"""Drawing a program: its kind, then the kind's own way of putting blocks together."""

import random
from collections.abc import Callable

from tests.support.programs.draft import Draft
from tests.support.programs.lone import gradient, skipped, sourced, weights_edited
from tests.support.programs.passes import edited, generated, invoked, sampled, session, traced
from tests.support.programs.program import Program

KINDS: dict[str, tuple[Callable[[Draft], None], int]] = {
    # how it is drawn, and how often in 100
    "trace": (traced, 40),
    "invokes": (invoked, 12),
    "session": (session, 10),
    "generate": (generated, 16),
    "edited": (edited, 5),
    "gradient": (gradient, 4),
    "source": (sourced, 4),
    "skip": (skipped, 3),
    "sampling": (sampled, 3),
    "weights": (weights_edited, 3),
}
LONE = frozenset({"gradient", "source", "skip", "sampling", "weights"})
"""The kinds that need a forward pass of their own."""

ELEMENTS = frozenset(
    {
        *(
            "aliased",
            "appended",
            "augmented",
            "barrier",
            "branch",
            "cache",
            "cache-of-everything",
            "cache-of-inputs",
        ),
        *(
            "called-module",
            "caught",
            "early-end",
            "empty-invoke",
            "facts",
            "global-seed",
            "head-off",
            "ids-keyword",
        ),
        *(
            "ids-list",
            "ids-tensor",
            "in-place",
            "in-place-input",
            "in-place-output",
            "inplace-edit",
            "inputs",
        ),
        *(
            "kept",
            "kv-cache",
            "late-edit",
            "logit-lens",
            "loop",
            "mlp-off",
            "numpy",
            "patch",
            "patch-of-a-view",
        ),
        *(
            "ragged",
            "raises",
            "replaced",
            "replaced-input",
            "replaced-inputs",
            "replaced-output",
            "result",
            "root",
        ),
        *("some-steps", "steering", "stop", "text", "tokens-edited", "tokens-read", "unbatched-edited"),
        *("unbatched-read", "unseen-edit", "within-tuple", "all-steps"),
    }
)
"""Everything that a program's ``elements`` may name."""


def draw(seed: int, family: str, kind: str | None = None) -> Program:
    """The program of this seed: the same at every call, on every machine.

    Args:
        family: ``gpt2`` or ``llama``.
        kind: one of :data:`KINDS`; drawn when it is not given.
    """
    chance = random.Random(f"{family} {seed} {kind}")
    if kind is None:
        kind = chance.choices(list(KINDS), [weight for _, weight in KINDS.values()])[0]
    draft = Draft(chance, family, f"{family}-{kind}-{seed}")
    KINDS[kind][0](draft)
    return draft.program(kind, lone=kind in LONE)
