"""What a process has once and every job needs for itself, changed over when the turn changes from one job to another."""

import copy
import linecache
import logging
import os
import sys
from typing import Any

import torch
from nnsight.intervention import interleaver
from nnsight.intervention import util as nnsight_util
from nnsight.tracing import tracer as tracing

from edif.executor import keeping
from edif.executor.merging.warned import Warned

_environ = os.environ  # noqa: TID251 - not read, but changed over
_NAMES: tuple[tuple[Any, str], ...] = (
    (tracing, "SOURCES"),
    (tracing, "BLOCKS"),
    (linecache, "cache"),
    (keeping, "_marked"),
    (interleaver, "__warningregistry__"),
    (sys, "stdout"),
    (sys, "stderr"),
    (logging.root, "handlers"),
    (_environ, "_data"),
    (torch._tensor_str, "PRINT_OPTS"),  # noqa: SLF001 - no public way to read them
)
"""Module attributes: nnsight's blocks by file name, where two users' files may have the same one; what is kept; which of nnsight's warnings were shown; the output;
to whom messages that are logged go; the environment, as Python has it; how tensors are printed."""
_OF_THREAD: tuple[Any, ...] = (tracing._local, nnsight_util._shared)  # noqa: SLF001 - nnsight's saved ids, depth, and block scopes


class Turn:
    """The state of one job while it is not its turn, and of the others while it is.

    Args:
        loaded: the served model, which all jobs have together.
        state: what nnsight's interleaver of it is to be for this job before its first trace.
    """

    def __init__(self, loaded: Any, state: dict[str, Any]) -> None:
        self._loaded = loaded
        self._tokens = 0
        self._interleaver = loaded.model.interleaver
        self._state = state
        self._named: list[Any] = [
            *({}, {}, {}, None, {}, sys.stdout, sys.stderr),
            list(logging.root.handlers),
            dict(vars(_environ)["_data"]),
            copy.copy(torch._tensor_str.PRINT_OPTS),  # noqa: SLF001
        ]
        self._of_thread: list[dict[str, Any]] = [{} for _ in _OF_THREAD]
        self._warned = Warned()
        self._grad = True
        self._random: torch.Tensor | None = None
        """torch's generator: what a job draws is of its own seed, wherever that was set. Others' states take too long to change."""

    def change(self) -> None:
        """Put this state in the place of the present one, and that one here: called twice, all is as it was."""
        self._state, self._interleaver.__dict__ = vars(self._interleaver), self._state
        for index, (owner, name) in enumerate(_NAMES):
            present = getattr(owner, name, {})
            setattr(owner, name, self._named[index])
            self._named[index] = present
        for index, local in enumerate(_OF_THREAD):
            present = dict(vars(local))
            vars(local).clear()
            vars(local).update(self._of_thread[index])
            self._of_thread[index] = present
        self._warned.change()
        self._tokens, self._loaded.tokens = self._loaded.tokens, self._tokens
        grad = torch.is_grad_enabled()
        torch.set_grad_enabled(self._grad)
        self._grad = grad
        random = torch.get_rng_state()
        if self._random is None:
            torch.default_generator.seed()
        else:
            torch.set_rng_state(self._random)
        self._random = random
