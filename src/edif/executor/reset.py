"""Putting a shared process back as it was, after every job.

nnsight, torch and Python keep state per process: block sources by file name, the set of saved ids, gradient
mode, hooks, loaded modules. :class:`ProcessState` notes what holds before the first job and restores it after
each. What it cannot restore - changed weights above all - it reports, and the runner is replaced.
"""

import gc
import linecache
import random
import sys
import threading
import warnings
from typing import Any

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


class ProcessState:
    """What must hold between two jobs, and how to bring it about again."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._modules = frozenset(sys.modules)
        self._hooks = {module: _hooks_of(module) for module in loaded.module.modules()}
        self._weights = _Weights(loaded.module)
        self._default_dtype = torch.get_default_dtype()
        self._threads = torch.get_num_threads()
        self._deterministic = torch.are_deterministic_algorithms_enabled()
        self._filters = list(warnings.filters)
        self._path = list(sys.path)
        self._generation_config = _plain(getattr(loaded.module, "generation_config", None))
        self._padding_side = getattr(loaded.model.tokenizer, "padding_side", None)

    def restore(self) -> str:
        """Undo what a job left behind; what cannot be undone comes back as a sentence, else ``""``."""
        self._loaded.restore_env()
        _forget_nnsight()
        self._restore_python()
        self._restore_torch()
        stray = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        if stray:
            return f"threads left running: {', '.join(stray)[:200]}"
        if set(self._hooks) != set(self._loaded.module.modules()):
            return "the model's modules were changed"
        if not self._weights.unchanged():
            return "the model's weights were changed"
        return ""

    def _restore_python(self) -> None:
        linecache.clearcache()
        sys.path[:] = self._path
        for name in set(sys.modules) - self._modules:
            module = sys.modules.get(name)
            # What was imported from the installation may stay: it is the same for everyone.
            if not _installed(module):
                sys.modules.pop(name, None)
        warnings.filters[:] = self._filters  # type: ignore[index]  # a list since Python 3
        random.seed()

    def _restore_torch(self) -> None:
        torch.set_grad_enabled(True)
        torch.set_default_dtype(self._default_dtype)
        torch.use_deterministic_algorithms(self._deterministic)
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        torch.seed()
        model = self._loaded.module
        if model.training:
            model.eval()
        for module, tables in self._hooks.items():
            for name, entries in tables.items():
                table = getattr(module, name)
                if dict(table) != entries:
                    table.clear()
                    table.update(entries)
        for parameter in model.parameters():
            parameter.grad = None
        config = getattr(model, "generation_config", None)
        if config is not None and _plain(config) != self._generation_config:
            config.__dict__.update(self._generation_config or {})
        if self._padding_side is not None:
            self._loaded.model.tokenizer.padding_side = self._padding_side


def _forget_nnsight() -> None:
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


def _plain(config: Any) -> dict[str, Any] | None:
    return None if config is None else dict(config.__dict__)


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
