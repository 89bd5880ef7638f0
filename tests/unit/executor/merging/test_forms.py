"""Values taken apart and put together again; what stands for an object of the pass is of no use."""

import copy
import pickle
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

from edif.executor.merging.forms import opaque_kinds, put_together, take_apart
from edif.executor.merging.misfit import Misfit, note_in, standing_in_for

Pair = namedtuple("Pair", ["one", "two"])

HIDDEN, OTHER = torch.arange(6.0).view(2, 3), torch.ones(2)

VALUES: list[Any] = [
    HIDDEN,
    (HIDDEN,),
    (),
    (HIDDEN, None, (OTHER, 1, 2.5, True, "sdpa")),
    [HIDDEN, [OTHER, []]],
    Pair(HIDDEN, (OTHER, None)),
    {"hidden": HIDDEN, "kwargs": {}, "more": {"mask": None, "use_cache": False}},
    OrderedDict(b=HIDDEN, a=OTHER),
    BaseModelOutputWithPast(last_hidden_state=HIDDEN, hidden_states=(HIDDEN, OTHER)),
    ((HIDDEN,), {"position_ids": OTHER}),
    None,
    3,
]


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    return one is other or (not isinstance(one, torch.Tensor) and one == other)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: str(value)[:40])
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    parts = take_apart(value)
    again = put_together(parts.form, parts.leaves, parts.scalars, parts.opaque)
    assert same(value, again)
    assert list(opaque_kinds(parts.form)) == []
    assert parts.form == take_apart(again).form


def test_a_model_output_has_its_attributes_again() -> None:
    parts = take_apart(BaseModelOutputWithPast(last_hidden_state=HIDDEN))
    again = put_together(parts.form, [OTHER], parts.scalars, [])
    assert again.last_hidden_state is OTHER
    assert again[0] is OTHER
    assert again.hidden_states is None


def test_another_shape_of_container_is_another_form() -> None:
    forms = [take_apart(each).form for each in VALUES]
    assert len(set(map(repr, forms))) == len({id(each) for each in VALUES}) - 1, "but for the two scalars"


def test_an_object_of_the_pass_comes_back_where_it_was() -> None:
    cache = DynamicCache()
    parts = take_apart((HIDDEN, {"past_key_values": cache}))
    assert list(opaque_kinds(parts.form)) == [DynamicCache]
    again = put_together(parts.form, parts.leaves, parts.scalars, parts.opaque)
    assert again[1]["past_key_values"] is cache


def test_in_a_job_something_stands_for_an_object_of_the_pass() -> None:
    for value in (
        (HIDDEN, DynamicCache()),
        BaseModelOutputWithPast(last_hidden_state=HIDDEN, past_key_values=DynamicCache()),
    ):
        parts = take_apart(value)
        stands = [standing_in_for(each) for each in opaque_kinds(parts.form)]
        again = put_together(parts.form, parts.leaves, parts.scalars, stands)
        assert again[0] is HIDDEN
        assert again[1] is stands[0]
        assert isinstance(again[1], DynamicCache)
        assert take_apart(again).form == parts.form


USES: dict[str, Callable[[Any], Any]] = {
    "an attribute": lambda it: it.key_cache,
    "hasattr": lambda it: hasattr(it, "layers"),
    "getattr with a default": lambda it: getattr(it, "layers", None),
    "setting an attribute": lambda it: setattr(it, "layers", []),
    "len": len,
    "iteration": list,
    "an item": lambda it: it[0],
    "setting an item": lambda it: it.__setitem__(0, 1),
    "membership": lambda it: 1 in it,
    "a call": lambda it: it(),
    "truth": bool,
    "equality": lambda it: it == None,  # noqa: E711
    "inequality": lambda it: it != 1,
    "order": lambda it: it < it,
    "a hash": lambda it: {it},
    "its text": str,
    "its representation": repr,
    "a format": lambda it: f"{it}",
    "pickling": lambda it: pickle.dumps((it,)),
    "the old way of pickling": lambda it: pickle.dumps(it, protocol=0),
    "a copy": copy.copy,
    "a deep copy": lambda it: copy.deepcopy([it]),
    "saving": lambda it: torch.save(it, "/dev/null"),
    "arithmetic": lambda it: it + 1,
    "a context": lambda it: it.__enter__(),
    "its size": lambda it: it.get_seq_length(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_to_use_it_is_a_misfit_that_is_noted(use: Callable[[Any], Any]) -> None:
    met: list[str] = []
    note_in(met)
    try:
        with pytest.raises(Misfit):
            use(standing_in_for(DynamicCache))
    finally:
        note_in([])
    assert met == ["it uses an object that only its own forward pass has"]


def test_a_misfit_that_user_code_swallows_is_noted_all_the_same() -> None:
    met: list[str] = []
    note_in(met)
    try:
        with suppress(BaseException):
            len(standing_in_for(DynamicCache))
        with pytest.raises(Misfit), suppress(Exception):  # it is none
            bool(standing_in_for(DynamicCache))
    finally:
        note_in([])
    assert len(met) == 2
