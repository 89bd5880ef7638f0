"""What a module takes or returns, taken apart: containers are its form, tensors its leaves.

A form travels as a number, since both sides of a shared pass have seen the same ones when the model was loaded; leaves travel
as bytes. Nobody builds an object from what another process says.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from transformers.utils import ModelOutput

from edif.executor.merging.kv_caches import cache_of, holds, tensors_of
from edif.executor.merging.misfit import Elsewhere

_SCALARS = (bool, int, float, str, type(None))

Scalar = bool | int | float | str | None
Form = tuple[Any, ...]
"""Nested tuples: what kind of node, its class, its keys, its children. Equal ones are built alike."""
Path = tuple[Any, ...]
"""Keys and indices that lead to a part of a value."""

TENSOR: Form = ("tensor",)
_SCALAR: Form = ("scalar",)


@dataclass(slots=True)
class Parts:
    """A value taken apart, each kind of part in the order in which it stands in the value.

    Attributes:
        caches: key-value caches, which were taken apart too.
    """

    form: Form = ()
    leaves: list[torch.Tensor] = field(default_factory=list)
    scalars: list[Scalar] = field(default_factory=list)
    opaque: list[Any] = field(default_factory=list)
    caches: list[Any] = field(default_factory=list)


def take_apart(value: Any, *, caches: bool = False) -> Parts:
    """Containers to any depth; what is neither container, tensor nor scalar stays whole, as something opaque.

    Args:
        caches: whether key-value caches count as containers.
    """
    parts = Parts()
    parts.form = _form(value, parts, caches)
    return parts


def _form(value: Any, parts: Parts, caches: bool) -> Form:
    if isinstance(value, torch.Tensor):
        parts.leaves.append(value)
        return TENSOR
    if isinstance(value, _SCALARS):
        parts.scalars.append(value)
        return _SCALAR
    if isinstance(value, dict):
        children = tuple(_form(each, parts, caches) for each in value.values())
        return ("dict", type(value), tuple(value), children)
    if isinstance(value, tuple | list):
        return ("sequence", type(value), tuple(_form(each, parts, caches) for each in value))
    if caches and (tensors := tensors_of(value)) is not None:
        parts.caches.append(value)
        parts.leaves += tensors
        return ("cache", value.layer_class_to_replicate, len(tensors))
    parts.opaque.append(value)
    return ("opaque", value.__class__)


def put_together(
    form: Form,
    leaves: Sequence[torch.Tensor],
    scalars: Sequence[Any],
    opaque: Sequence[Any],
    caches: Sequence[Any] = (),
) -> Any:
    """The value of this form.

    Args:
        caches: those that are there already: one that is made of the very tensors is taken for that.
    """
    return _build(form, iter(leaves), iter(scalars), iter(opaque), caches)


def opaque_kinds(form: Form) -> Iterator[type]:
    """The classes of a form's opaque parts, in their order."""
    match form:
        case ("opaque", kind):
            yield kind
        case ("dict", _, _, children) | ("sequence", _, children):
            for each in children:
                yield from opaque_kinds(each)


def paths(form: Form) -> tuple[list[Path], list[Path]]:
    """Where in a value of this form its tensors stand, and where its scalars, each in their order."""
    tensors: list[Path] = []
    scalars: list[Path] = []
    _walk(form, (), tensors, scalars)
    return tensors, scalars


def _walk(form: Form, path: Path, tensors: list[Path], scalars: list[Path]) -> None:
    match form:
        case ("tensor",):
            tensors.append(path)
        case ("scalar",):
            scalars.append(path)
        case ("dict", _, keys, children):
            for key, each in zip(keys, children, strict=True):
                _walk(each, (*path, key), tensors, scalars)
        case ("sequence", _, children):
            for index, each in enumerate(children):
                _walk(each, (*path, index), tensors, scalars)
        case ("cache", _, count):
            tensors += ((*path, index) for index in range(count))


def _build(
    form: Form, leaves: Iterator[Any], scalars: Iterator[Any], opaque: Iterator[Any], caches: Sequence[Any]
) -> Any:
    match form:
        case ("tensor",):
            return next(leaves)
        case ("scalar",):
            return next(scalars)
        case ("opaque", _):
            return next(opaque)
        case ("dict", kind, keys, children):
            values = [_build(each, leaves, scalars, opaque, caches) for each in children]
            return _mapping(kind, dict(zip(keys, values, strict=True)))
        case ("sequence", kind, children):
            values = [_build(each, leaves, scalars, opaque, caches) for each in children]
            return kind(*values) if hasattr(kind, "_fields") else kind(values)
        case ("cache", layer_class, count):
            tensors = list(islice(leaves, count))
            there = [each for each in caches if holds(each, tensors)]
            return there[0] if there else cache_of(tensors, layer_class)
    raise AssertionError(form)


def _mapping(kind: Any, items: dict[str, Any]) -> Any:
    if not issubclass(kind, ModelOutput):
        return items if kind is dict else kind(items)
    # Its constructor looks at what it is given, which is no use of it.
    made = kind(**{name: object() if isinstance(item, Elsewhere) else item for name, item in items.items()})
    for name, item in items.items():
        made[name] = item
    return made
