"""Putting a shared process back as it was, after every job.

nnsight, torch and Python keep state per process: block sources by file name, the set of saved ids, gradient
mode, hooks, loaded modules. :class:`ProcessState` notes what holds before the first job and restores it after
each. What it cannot restore - changed weights above all - it reports, and the runner is replaced. It undoes
carelessness; against intent it is no protection.
"""

import linecache
import os
import random
import sys
import threading
import warnings
from typing import Any

import numpy as np
import torch
from nnsight.intervention.util import clear_shared_locals
from nnsight.tracing import globals as tracing_globals
from nnsight.tracing import tracer as tracing
from tqdm import TMonitor

from edif.executor.interpreter import Interpreter
from edif.executor.job import LoadedModel
from edif.executor.noted import (
    SWITCHES,
    TABLES_OF_ALL,
    Names,
    Settings,
    Table,
    patchable_of,
    settings_of,
    tables_of,
)
from edif.executor.weights import Guard


class ProcessState:
    """What must hold between two jobs, and how to bring it about again.

    Args:
        loaded: the served model, as the zygote left it.
        weights: notices when a job has written to a weight.
    """

    def __init__(self, loaded: LoadedModel, weights: Guard) -> None:
        self._loaded = loaded
        self._weights = weights
        self._imports = _Imports()
        self._interpreter = Interpreter()
        tables = [*tables_of(loaded.module), *TABLES_OF_ALL]
        self._tables = [Table(table) for table in tables if table]
        self._empty = [table for table in tables if not table]
        self._parameters = [(each, each.requires_grad) for each in loaded.module.parameters()]
        self._tensors = [*loaded.module.parameters(), *loaded.module.buffers()]
        self._marks = self._read_marks()
        self._switches = [(get, put, get()) for get, put in SWITCHES]
        self._functions = [Names(owner) for owner in patchable_of(loaded.module)]
        self._filters = list(warnings.filters)
        self._path = list(sys.path)
        self._tokens = _size(loaded.model.tokenizer)
        self._settings = [Settings(vars(owner)) for owner in settings_of(loaded.model)]

    def restore(self) -> str:
        """Undo what a job left behind; what cannot be undone comes back as a sentence, else ``""``."""
        try:
            self._loaded.finish()
        except torch.AcceleratorError as error:
            return f"the model's device failed: {error}"
        sys.settrace(None)
        sys.setprofile(None)
        for names in self._functions:
            names.restore()
        self._restore_torch()
        self._loaded.restore_env()
        forget_nnsight()
        self._restore_python()
        self._restore_model()
        _stop_progress_bars()
        stray = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        if stray:
            return f"threads left running: {', '.join(stray)[:200]}"
        if self._marks != self._read_marks() or not self._weights.unchanged():
            return "the model's weights were changed"
        if _size(self._loaded.model.tokenizer) != self._tokens:
            return "the model's tokenizer was changed"
        return ""

    def _restore_python(self) -> None:
        self._interpreter.restore()
        linecache.clearcache()
        sys.path[:] = self._path
        self._imports.restore()
        with warnings.catch_warnings():  # has Python forget which warnings it has already shown
            pass
        warnings.filters[:] = self._filters  # type: ignore[index]  # a list since Python 3

    def _restore_torch(self) -> None:
        _leave_modes()
        for get, put, value in self._switches:
            if get() != value:
                put(value)
        torch.set_flush_denormal(False)
        draw_anew()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.seed_all()

    def _restore_model(self) -> None:
        for table in self._tables:
            table.restore()
        if any(self._empty):
            for hooks in self._empty:
                hooks.clear()
        for parameter, requires_grad in self._parameters:
            if parameter.requires_grad is not requires_grad:
                parameter.requires_grad_(requires_grad)
            if parameter.grad is not None:
                parameter.grad = None
        for settings in self._settings:
            settings.restore()

    def _read_marks(self) -> list[tuple[object, ...]]:
        """Of each weight how often it was edited in place, where it lies, and how its bytes are read."""
        return [
            (each._version, each.data_ptr(), each.shape, each.stride(), each.dtype)  # noqa: SLF001
            for each in self._tensors
        ]


def draw_anew() -> None:
    """Have all random numbers of the processor begin where nobody knows: no job draws what another one drew.

    Seeds are from the system's randomness, but not through the generators' own, slow ways of asking for it.
    """
    random.seed(int.from_bytes(os.urandom(8)))
    np.random.seed(int.from_bytes(os.urandom(4)))
    torch.default_generator.seed()  # torch.seed() takes 2 ms for devices that are not there


def _leave_modes() -> None:
    """Those that were entered and not left; a default device is one, the CPU too."""
    if torch._C._len_torch_function_stack() > 0:  # noqa: SLF001 - no public way
        torch.set_default_device(None)
    while torch._C._len_torch_function_stack() > 0:  # noqa: SLF001
        torch._C._pop_torch_function_stack()  # noqa: SLF001
    while torch._C._len_torch_dispatch_stack() > 0:  # noqa: SLF001
        torch.utils._python_dispatch._pop_mode()  # noqa: SLF001


def forget_nnsight() -> None:
    """Drop nnsight's per-process caches: a second script of the same name must not meet the first one's."""
    tracing_globals.SOURCES.clear()
    tracing_globals.BLOCKS.clear()
    tracing._local.depth = 0  # noqa: SLF001 - left raised by a job that was interrupted
    tracing._saves().clear()  # noqa: SLF001 - the set that nnsight's own backends read
    clear_shared_locals()


class _Imports:
    """Which modules were loaded. A new one is always the last in ``sys.modules``."""

    def __init__(self) -> None:
        self._note()

    def _note(self) -> None:
        self._names = frozenset(sys.modules)
        self._last = next(reversed(sys.modules))

    def restore(self) -> None:
        if len(sys.modules) == len(self._names) and next(reversed(sys.modules)) == self._last:
            return
        for name in set(sys.modules) - self._names:
            # What was imported from the installation may stay: it is the same for everyone.
            if not _installed(sys.modules.get(name)):
                sys.modules.pop(name, None)
        self._note()


def _stop_progress_bars() -> None:
    """End the thread that tqdm starts with the first bar; the next bar starts another."""
    for thread in threading.enumerate():
        if isinstance(thread, TMonitor):
            thread.tqdm_cls.monitor = None
            thread.exit()


def _installed(module: Any) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and ("/site-packages/" in file or "/lib/python3" in file)


def _size(tokenizer: Any) -> int:
    return 0 if tokenizer is None else len(tokenizer)
