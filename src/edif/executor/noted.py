"""Things as they were: noted once, compared by identity, put back where they differ.

What is compared: the dictionaries of which a module tree consists, the names of modules and classes that jobs may patch, the objects
that say how a model computes, and torch's switches.
"""

import builtins
import sys
from collections.abc import Callable, Iterator, Mapping
from operator import is_
from types import ModuleType
from typing import Any

import nnsight
import torch
from torch.nn.modules import module as of_all_modules
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# Taken now: a job may put others in their place, and it is these that must notice.
_all, _any, _len, _map, _vars, _setattr, _isinstance, _type = (
    all,
    any,
    len,
    map,
    vars,
    setattr,
    isinstance,
    type,
)

SWITCHES: tuple[tuple[Callable[[], Any], Callable[..., Any]], ...] = (
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (lambda: torch.is_autocast_enabled("cpu"), lambda on: torch.set_autocast_enabled("cpu", on)),
    (lambda: torch.get_autocast_dtype("cpu"), lambda dtype: torch.set_autocast_dtype("cpu", dtype)),
)
PATCHABLE: tuple[ModuleType | type, ...] = (
    builtins,
    torch,
    torch.nn.functional,
    torch.Tensor,
    torch.nn.Module,
    nnsight,
)
TABLES_OF_ALL: tuple[dict[Any, Any], ...] = (
    *(
        value
        for name, value in vars(of_all_modules).items()
        if name.startswith("_global_") and isinstance(value, dict)
    ),
    ALL_ATTENTION_FUNCTIONS._global_mapping,  # noqa: SLF001 - no public way to put them back
    ALL_ATTENTION_FUNCTIONS._local_mapping,  # noqa: SLF001
)
"""Hooks on every module there is, and what attention computes, by its name in a configuration."""


def patchable_of(root: torch.nn.Module) -> tuple[ModuleType | type, ...]:
    """What jobs may patch that the modules of this tree compute with."""
    classes = {type(each) for each in root.modules()}
    files = {sys.modules[each.__module__] for each in classes}
    return (*PATCHABLE, *(classes - {*PATCHABLE}), *(files - {*PATCHABLE}))


def under_a_mode() -> bool:
    """Whether something is set that changes every operation, as a scan does, or a narrower dtype."""
    modes = torch._C._len_torch_dispatch_stack() + torch._C._len_torch_function_stack()  # noqa: SLF001 - no public way
    return modes > 0 or torch.is_inference_mode_enabled() or torch.is_autocast_enabled("cpu")


def tables_of(root: torch.nn.Module) -> Iterator[dict[str, Any]]:
    """Every dictionary of which the module tree consists: attributes, parameters, buffers, children, hooks."""
    for module in list(root.modules()):
        yield vars(module)
        yield from (value for value in vars(module).values() if isinstance(value, dict))


def _is_same(present: Mapping[Any, Any], keys: tuple[Any, ...], values: tuple[Any, ...]) -> bool:
    """Whether names and objects are those noted, by identity and in one pass of C code each."""
    return (
        _len(present) == _len(values)
        and _all(_map(is_, present.values(), values))
        and _all(_map(is_, present, keys))
    )


class Table:
    """A dictionary whose entries must be the same objects as before."""

    def __init__(self, table: dict[Any, Any]) -> None:
        self._table = table
        self._keys = tuple(table)
        self._values = tuple(table.values())

    @property
    def same(self) -> bool:
        return _is_same(self._table, self._keys, self._values)

    def restore(self) -> None:
        table = self._table
        if not self.same:
            table.clear()
            table.update(zip(self._keys, self._values, strict=True))


def settings_of(model: Any) -> list[Any]:
    """The objects beside the modules that say how the model computes."""
    module = model._module  # noqa: SLF001 - nnsight's own name for the wrapped module
    owners = (
        module.config,
        getattr(module, "generation_config", None),
        getattr(model.pipeline, "generation_config", None),
        model.pipeline,
        model.tokenizer,
    )
    return [owner for owner in owners if owner is not None]


class Settings:
    """The attributes of one settings object, where lists and dictionaries may have been edited in place."""

    def __init__(self, present: dict[str, Any]) -> None:
        self._present = present
        self._keys = tuple(present)
        self._values = tuple(present.values())
        self._editable = [
            (value, value.copy()) for value in present.values() if isinstance(value, dict | list | set)
        ]

    @property
    def same(self) -> bool:
        unedited = all(value == noted for value, noted in self._editable)
        return unedited and _is_same(self._present, self._keys, self._values)

    def restore(self) -> None:
        if self.same:
            return
        for value, noted in self._editable:  # the very objects: others compare by identity
            if value != noted:
                value.clear()
                value.extend(noted) if isinstance(value, list) else value.update(noted)
        self._present.clear()
        self._present.update(zip(self._keys, self._values, strict=True))


_NNSIGHTS = frozenset({"grad"})
"""Of tensors: nnsight puts it there when a block first asks for a gradient, and no forward pass looks at it."""


class Names:
    """The names of a module or class that jobs may patch."""

    def __init__(self, owner: ModuleType | type) -> None:
        self._owner = owner
        self._note()

    def _note(self) -> None:
        self._noted = dict(vars(self._owner))
        self._keys = tuple(self._noted)
        self._values = tuple(self._noted.values())

    @property
    def same(self) -> bool:
        """Whether every name that was noted is still there for the same thing. Others may have come, but not before inherited ones."""
        present = _vars(self._owner)
        if _is_same(present, self._keys, self._values):
            return True
        unchanged = _all(present.get(name) is value for name, value in self._noted.items())
        return unchanged and _NNSIGHTS.issuperset(self._before_inherited())

    def _before_inherited(self) -> list[str]:
        """Names of a class that have come since, and stand before those of its bases. Lazy imports may add others."""
        if not _isinstance(self._owner, _type):
            return []
        come = _vars(self._owner).keys() - self._noted.keys()
        return [name for name in come if _any(name in _vars(base) for base in self._owner.__mro__[1:])]

    def restore(self) -> None:
        present = _vars(self._owner)
        if _is_same(present, self._keys, self._values):
            return
        for name, value in self._noted.items():
            if present.get(name) is not value:
                _setattr(self._owner, name, value)
        for name in self._before_inherited():
            delattr(self._owner, name)
        self._note()
