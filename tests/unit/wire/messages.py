"""Messages of any kind for hypothesis, each field filled from its annotation."""

import types
import typing
from dataclasses import is_dataclass
from enum import Enum

import hypothesis.strategies as st
import msgspec

from edif.core.job import UsedJob

# What travels is UTF-8, 64-bit integers, and whatever JSON can say in an env.
TEXT = st.text(max_size=30)
ENV_VALUES = st.none() | st.booleans() | TEXT | st.integers(-9, 9) | st.lists(TEXT, max_size=2)
PLAIN: dict[object, st.SearchStrategy[object]] = {
    str: TEXT,
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    bytes: st.binary(max_size=30),
    type(None): st.none(),
    typing.Any: ENV_VALUES,
    UsedJob: TEXT,
}


def messages(kind: type[typing.Any]) -> st.SearchStrategy[typing.Any]:
    """Messages of one kind."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return st.builds(kind, **{name: values(hint) for name, hint in hints.items()})


def values(hint: object) -> st.SearchStrategy[typing.Any]:
    """Values of one annotation."""
    if hint in PLAIN:
        return PLAIN[hint]
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, types.UnionType) or origin is typing.Union:
        return st.one_of([values(part) for part in parts])
    if origin is typing.Literal:
        return st.sampled_from(parts)
    if origin is typing.Annotated:
        return _bounded(*parts)
    if origin is tuple:
        return st.lists(values(parts[0]), max_size=3).map(tuple)
    if origin is list:
        return st.lists(values(parts[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(values(parts[0]), values(parts[1]), max_size=3)
    assert isinstance(hint, type)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(list(hint))
    assert issubclass(hint, msgspec.Struct) or is_dataclass(hint), f"no values for {hint}"
    return messages(hint)


def _bounded(hint: object, bounds: object) -> st.SearchStrategy[typing.Any]:
    """Numbers within their bounds; the longest texts and lists that are made here are within any."""
    assert isinstance(bounds, msgspec.Meta)
    if hint is int:
        return st.integers(bounds.ge, bounds.le)
    if hint is float:
        return st.floats(min_value=bounds.ge, max_value=bounds.le, allow_nan=False)
    return values(hint)
