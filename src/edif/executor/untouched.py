"""Whether a job has changed what another process computes with when it runs the model.

A sealed job may do as it likes with its copy of the model: write to its weights, put a hook or a module on it, patch torch. In
a pass of its own that has its effect; in a pass that the driver runs it has none. So a job that did has to run its passes itself.
"""

import sys
from typing import Any

import torch

from edif.executor.noted import (
    SWITCHES,
    TABLES_OF_ALL,
    Names,
    Settings,
    Table,
    patchable_of,
    tables_of,
    under_a_mode,
)
from edif.executor.versions import Versions, table_of
from edif.executor.weights import WeightGuard


class Untouched:
    """Made while everything is as the driver has it.

    Args:
        module: the served model's.
        weights: notices writes to them.
    """

    def __init__(self, module: Any, weights: WeightGuard) -> None:
        self._weights = weights
        tables = [*tables_of(module), *TABLES_OF_ALL]
        self._tables = [Table(table) for table in tables]
        patchable = patchable_of(module)
        self._names = [Names(owner) for owner in patchable]
        owners = (module.config, getattr(module, "generation_config", None))
        settings = [vars(each) for each in owners if each is not None]
        self._settings = [Settings(each) for each in settings]
        self._versions = Versions((*tables, *map(table_of, patchable), *settings))
        self._tensors = [*module.parameters(), *module.buffers()]
        self._places = self._read_places()
        self._watchers = _watchers()
        # Whether gradients are on is looked at where a trace begins; threads are more where jobs run than here.
        passing = (torch.is_grad_enabled, torch.get_num_threads)
        self._switches = [(get, get()) for get, _ in SWITCHES if get not in passing]

    def changed(self) -> str:
        """What of it the job has changed, as a reason; empty if nothing."""
        if self._places != self._read_places() or not self._weights.unchanged():
            return "it changes the model's weights"
        if not all(each.same for each in self._settings):  # lists in them, too
            return "it changes how the model computes"
        return self.changed_for_now()

    def changed_for_now(self) -> str:
        """Likewise, but for the weights: what may be put back before anybody looks again, and takes little to look at."""
        if self._watchers != _watchers():
            return "it watches what Python does"
        if not self._versions.same:
            if not all(each.same for each in self._tables):
                return "it changes the model's modules or hooks"
            if not (all(each.same for each in self._names) and all(each.same for each in self._settings)):
                return "it changes how the model computes"
            self._versions.note()  # something lazy was imported, or put where it was
        if under_a_mode() or any(get() != value for get, value in self._switches):
            return "it changes how torch computes"
        return ""

    def _read_places(self) -> list[tuple[object, ...]]:
        return [(each.data_ptr(), each.shape, each.stride(), each.dtype) for each in self._tensors]


def _watchers() -> tuple[Any, Any]:
    """What Python calls for each line and call; nnsight's own, by which it passes over a block, are left alone."""
    tracing = sys.gettrace()
    module = getattr(tracing, "__module__", None)  # what a block defines has none, or whatever it was given
    nnsights = isinstance(module, str) and module.startswith("nnsight.")
    return None if nnsights else tracing, sys.getprofile()
