"""Putting a shared process back as it was, after every job.

nnsight, torch and Python keep state per process: block sources by file name, the set of saved ids, gradient
mode, hooks, loaded modules. :class:`ProcessState` notes what holds before the first job and restores it after
each. What it cannot restore - changed weights above all - it reports, and the runner is replaced. It undoes
carelessness; against intent it is no protection.
"""

import builtins
import gc
import linecache
import random
import sys
import threading
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from nnsight.intervention.util import clear_shared_locals
from nnsight.tracing import globals as tracing_globals
from nnsight.tracing import tracer as tracing

from edif.executor.job import LoadedModel

_HOOK_TABLES = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_TORCH_SWITCHES: tuple[tuple[Callable[[], Any], Callable[..., Any]], ...] = (
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
)
_PATCHABLE: tuple[ModuleType | type, ...] = (
    builtins,
    torch,
    torch.nn.functional,
    torch.Tensor,
    torch.nn.Module,
)


class ProcessState:
    """What must hold between two jobs, and how to bring it about again."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._modules = frozenset(sys.modules)
        self._hooks = {module: _hooks_of(module) for module in loaded.module.modules()}
        self._module_attributes = {module: dict(vars(module)) for module in self._hooks}
        self._weights = _Weights(loaded.module)
        self._switches = [(get, put, get()) for get, put in _TORCH_SWITCHES]
        self._functions = [(owner, dict(vars(owner))) for owner in _PATCHABLE]
        self._filters = list(warnings.filters)
        self._path = list(sys.path)
        self._tokens = _size(loaded.model.tokenizer)
        self._settings = [(owner, _copied(vars(owner))) for owner in _settings_of(loaded)]

    def restore(self) -> str:
        """Undo what a job left behind; what cannot be undone comes back as a sentence, else ``""``."""
        self._restore_torch()
        self._loaded.restore_env()
        forget_nnsight()
        self._restore_python()
        self._restore_model()
        stray = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        if stray:
            return f"threads left running: {', '.join(stray)[:200]}"
        if set(self._hooks) != set(self._loaded.module.modules()):
            return "the model's modules were changed"
        if not self._weights.unchanged():
            return "the model's weights were changed"
        if _size(self._loaded.model.tokenizer) != self._tokens:
            return "the model's tokenizer was changed"
        return ""

    def _restore_python(self) -> None:
        linecache.clearcache()
        sys.path[:] = self._path
        for name in set(sys.modules) - self._modules:
            module = sys.modules.get(name)
            # What was imported from the installation may stay: it is the same for everyone.
            if not _installed(module):
                sys.modules.pop(name, None)
        for owner, functions in self._functions:
            _unpatch(owner, functions)
        with warnings.catch_warnings():  # has Python forget which warnings it has already shown
            pass
        warnings.filters[:] = self._filters  # type: ignore[index]  # a list since Python 3
        random.seed()
        np.random.seed()

    def _restore_torch(self) -> None:
        if torch.get_default_device().type != "cpu":
            torch.set_default_device(None)
        for get, put, value in self._switches:
            if get() != value:
                put(value)
        torch.set_flush_denormal(False)
        torch.default_generator.seed()  # torch.seed() takes 2 ms for devices that are not there
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.seed_all()

    def _restore_model(self) -> None:
        for module, attributes in self._module_attributes.items():
            present = vars(module)
            if present.keys() != attributes.keys() or any(
                present[name] is not value for name, value in attributes.items()
            ):
                present.clear()
                present.update(attributes)
        for module, tables in self._hooks.items():
            for name, entries in tables.items():
                table = getattr(module, name)
                if dict(table) != entries:
                    table.clear()
                    table.update(entries)
        for parameter in self._loaded.module.parameters():
            parameter.grad = None
        for owner, noted in self._settings:
            present = vars(owner)
            if present.keys() != noted.keys() or not all(
                _same(present[name], value) for name, value in noted.items()
            ):
                present.clear()
                present.update(_copied(noted))


def forget_nnsight() -> None:
    """Drop nnsight's per-process caches: a second script of the same name must not meet the first one's."""
    tracing_globals.SOURCES.clear()
    tracing_globals.BLOCKS.clear()
    tracing._local.depth = 0  # noqa: SLF001 - left raised by a job that was interrupted
    tracing._saves().clear()  # noqa: SLF001 - the set that nnsight's own backends read
    clear_shared_locals()
    sys.settrace(None)


def _hooks_of(module: torch.nn.Module) -> dict[str, dict[Any, Any]]:
    return {name: dict(getattr(module, name)) for name in _HOOK_TABLES}


def _installed(module: Any) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and ("/site-packages/" in file or "/lib/python3" in file)


def _settings_of(loaded: LoadedModel) -> list[Any]:
    """The objects beside the modules that say how the model computes."""
    model = loaded.model
    owners = (
        loaded.module.config,
        getattr(loaded.module, "generation_config", None),
        getattr(model.pipeline, "generation_config", None),
        model.pipeline,
        model.tokenizer,
    )
    return [owner for owner in owners if owner is not None]


def _copied(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.copy() if isinstance(value, dict | list | set) else value
        for name, value in values.items()
    }


def _same(present: Any, noted: Any) -> bool:
    if present is noted:
        return True
    return isinstance(noted, dict | list | set | str | int | float) and bool(present == noted)


def _size(tokenizer: Any) -> int:
    return 0 if tokenizer is None else len(tokenizer)


def _unpatch(owner: ModuleType | type, functions: dict[str, Any]) -> None:
    present = vars(owner)
    for name in [name for name, value in functions.items() if present.get(name) is not value]:
        setattr(owner, name, functions[name])
    if isinstance(owner, type):
        # Names may be added, as lazy imports do, but not before the inherited ones.
        for name in present.keys() - functions.keys():
            if any(name in vars(base) for base in owner.__mro__[1:]):
                delattr(owner, name)


class _Weights:
    """Notices every change of parameters and buffers, also one that moves no version counter."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._requires_grad = [parameter.requires_grad for parameter in module.parameters()]
        self._marks = self._read_marks()
        self._sums = self._read_sums()

    def unchanged(self) -> bool:
        for parameter, requires_grad in zip(self._module.parameters(), self._requires_grad, strict=False):
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
        return self._marks == self._read_marks() and self._sums == self._read_sums()

    def _tensors(self) -> list[torch.Tensor]:
        return [*self._module.parameters(), *self._module.buffers()]

    def _read_marks(self) -> list[tuple[int, int, torch.Size]]:
        return [(tensor.data_ptr(), tensor._version, tensor.shape) for tensor in self._tensors()]  # noqa: SLF001

    def _read_sums(self) -> list[int]:
        return [_checksum(tensor) for tensor in self._tensors()]


def _checksum(tensor: torch.Tensor) -> int:
    """The sum of the tensor's bits as integers, modulo 2**64: exact, order-free, at memory speed."""
    flat = tensor.detach().contiguous().view(-1)
    if flat.numel() == 0:
        return 0
    raw = flat.view(torch.uint8)
    words = raw.numel() // 8 * 8
    total = int(raw[:words].view(torch.int64).sum()) if words else 0
    return total + int(raw[words:].sum())


def collect() -> None:
    """Free what the last job's reference cycles hold."""
    gc.collect()
