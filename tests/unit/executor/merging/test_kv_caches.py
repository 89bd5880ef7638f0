"""Key-value caches in shared passes: where they are final a job has a real one, with its own rows, and elsewhere it runs by itself."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from nnsight.tracing.backend import Backend
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, QuantizedLayer

from edif.executor.merging.forms import opaque_kinds, put_together, take_apart
from edif.executor.merging.kv_caches import ShownCaches, cache_of, tensors_of
from edif.executor.merging.misfit import Misfit
from tests.unit.executor.merging.jobs import Program, Site, all_fit, fits
from tests.unit.executor.merging.seats import Room, room
from tests.unit.executor.merging.tiny import TOLERANCE, prompt

# ruff: noqa: F841 - what a block saves is sent back by its name


def filled(layers: int = 2) -> DynamicCache:
    cache = DynamicCache()
    for number in range(layers):
        cache.update(torch.full((2, 1, 3, 4), float(number)), torch.ones(2, 1, 3, 4), number)
    return cache


# -- taken apart -------------------------------------------------------------------------------------------
def test_a_cache_comes_back_with_all_that_it_has() -> None:
    cache = filled()
    parts = take_apart((cache, 1), caches=True)
    assert parts.caches == [cache]
    assert list(opaque_kinds(parts.form)) == []
    again, _ = put_together(parts.form, parts.leaves, parts.scalars, [])
    assert again is not cache
    assert {**vars(again), "layers": 0} == {**vars(cache), "layers": 0}
    for one, other in zip(cache.layers, again.layers, strict=True):
        assert vars(one).keys() == vars(other).keys()
        assert one.keys is other.keys
        assert one.values is other.values
        assert (one.dtype, one.device, one.is_initialized) == (other.dtype, other.device, True)
    assert take_apart((again, 2), caches=True).form == parts.form
    same, _ = put_together(parts.form, parts.leaves, parts.scalars, [], [filled(), cache])
    assert same is cache


def another_class() -> Any:
    return type("Another", (DynamicCache,), {})()


def one_more_attribute() -> Any:
    cache = filled()
    cache.note = 1
    return cache


def one_more_on_a_layer() -> Any:
    cache = filled()
    cache.layers[0].cumulative_length = 3
    return cache


def another_layer() -> Any:
    cache = filled()
    cache.layers.append(DynamicSlidingWindowLayer(sliding_window=2))
    return cache


def not_begun() -> Any:
    cache = filled()
    cache.layers.append(DynamicLayer())
    return cache


def no_tensor() -> Any:
    cache = filled()
    cache.layers[0].keys = torch.nn.Parameter(cache.layers[0].keys)
    return cache


def another_dtype() -> Any:
    cache = filled()
    cache.layers[0].keys = cache.layers[0].keys.double()
    return cache


def another_kind_to_come() -> Any:
    cache = filled()
    cache.layer_class_to_replicate = QuantizedLayer
    return cache


UNKNOWN = [
    another_class,
    one_more_attribute,
    one_more_on_a_layer,
    another_layer,
    not_begun,
    no_tensor,
    another_dtype,
    another_kind_to_come,
]


@pytest.mark.parametrize("make", UNKNOWN, ids=lambda each: each.__name__)
def test_one_of_which_not_everything_is_known_stays_whole(make: Any) -> None:
    cache = make()
    assert tensors_of(cache) is None
    parts = take_apart((cache,), caches=True)
    assert parts.opaque == [cache]
    assert parts.leaves == []


def test_an_empty_one_is_known() -> None:
    parts = take_apart(DynamicCache(), caches=True)
    assert isinstance(put_together(parts.form, [], [], [], parts.caches), DynamicCache)


def test_a_cache_that_changes_between_visits_is_noticed() -> None:
    shown = ShownCaches()
    first, second = filled(), filled()
    shown.note([first])
    shown.note([])
    first.layers[0].keys = torch.zeros(1)
    shown.note([first])  # met again: what was done to it is known
    shown.note([second])
    assert shown.caches == [first, second]
    first.layers.pop()
    with pytest.raises(Misfit):
        shown.note([second])


def test_the_same_tensors_are_the_same_cache() -> None:
    cache = filled()
    tensors = tensors_of(cache)
    assert tensors is not None
    assert tensors_of(cache_of(tensors, None)) == tensors


# -- in shared passes --------------------------------------------------------------------------------------
def reads(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend) as tracer:
            cache = model.output.past_key_values.save()
            keys = cache.layers[1].keys.save()
            facts = [type(cache), len(cache), cache.get_seq_length(), cache.is_compileable].save()
            whole = tracer.result.save()

    return program


def is_one_object(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend) as tracer:
            inner = (model.transformer if hasattr(model, "transformer") else model.model).output
            outer = model.output
            same = [
                inner.past_key_values is outer.past_key_values,
                outer.past_key_values is tracer.result.past_key_values,
                inner.past_key_values.layers[0].keys is outer.past_key_values.layers[0].keys,
            ].save()

    return program


def edits_in_place(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend) as tracer:
            inner = (model.transformer if hasattr(model, "transformer") else model.model).output
            inner.past_key_values.layers[0].keys[:, :, 1] = 7
            seen = model.output.past_key_values.layers[0].keys.clone().save()
            result = tracer.result.past_key_values.save()

    return program


def puts_keys_in(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend) as tracer:
            inner = (model.transformer if hasattr(model, "transformer") else model.model).output
            inner.past_key_values.layers[0].keys = inner.past_key_values.layers[0].keys * 2
            same = [inner.past_key_values is model.output.past_key_values].save()
            result = tracer.result.past_key_values.save()

    return program


def caches_all(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend) as tracer:
            cache = tracer.cache().save()

    return program


def caches_some(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend) as tracer:
            cache = tracer.cache(modules=[model, model.lm_head]).save()

    return program


def goes_on_with_it(start: int) -> Program:
    """The second trace is a pass of its own, from the cache of the first."""

    def program(model: Any, backend: Backend) -> None:
        with model.session(backend=backend):
            with model.trace(prompt(start)):
                cache = model.output.past_key_values
            with model.trace(prompt(start + 5, 2), past_key_values=cache):
                logits = model.lm_head.output.save()
            grown = cache.save()

    return program


def grows_it_itself(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend):
            logits = model.lm_head.output.save()
            cache = model.output.past_key_values
            more = cache.layers[0].keys[:, :, :1]
            early = cache.layers[0].keys.save()
            cache.update(more, more, 0)
            cache = cache.save()

    return program


def puts_logits_in(start: int) -> Program:
    """In the container, in place."""

    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend) as tracer:
            model.output.logits = model.output.logits * 2
            logits = tracer.result.logits.save()

    return program


def puts_an_argument_in(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend):
            model.inputs[1]["input_ids"] = model.inputs[1]["input_ids"].clamp(max=9)
            logits = model.lm_head.output.save()

    return program


SHARED = [
    reads,
    is_one_object,
    edits_in_place,
    puts_keys_in,
    caches_all,
    caches_some,
    goes_on_with_it,
    puts_logits_in,
    puts_an_argument_in,
]


@pytest.mark.parametrize("kind", SHARED, ids=lambda each: each.__name__)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_as_alone(kind: Any, architecture: str, request: pytest.FixtureRequest) -> None:
    place: Site = request.getfixturevalue(architecture)
    all_fit(place, [kind(1), kind(11), reads(21)], TOLERANCE)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def driver(request: pytest.FixtureRequest) -> Iterator[Room]:
    place: Site = request.getfixturevalue(request.param)
    with room(place) as made:
        yield made


@pytest.mark.parametrize("kind", SHARED, ids=lambda each: each.__name__)
def test_as_alone_in_a_process_of_its_own(kind: Any, driver: Room) -> None:
    ended = driver.beside(kind(1))
    if "too slowly" in ended.misfit:  # on a machine that has much else to do
        ended = driver.beside(kind(1))
    assert ended.shared >= 1
    assert fits(driver.place.solo(kind(1)), ended, TOLERANCE)


# -- elsewhere ---------------------------------------------------------------------------------------------
def changes_it_between(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend) as tracer:
            cache = model.transformer.output.past_key_values
            logits = model.lm_head.output.save()
            cache.crop(2)
            whole = model.output.past_key_values.save()

    return program


def reads_it_early(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend):
            (_, given, *_), _ = model.transformer.h[1].inputs
            length = given.get_seq_length().save()
            logits = model.lm_head.output.save()

    return program


def reads_every_step(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.generate(prompt(start), max_new_tokens=3, backend=backend) as tracer:
            lengths = [].save()
            for _ in tracer.iter[:3]:
                lengths.append(model.output.past_key_values.get_seq_length())

    return program


@pytest.mark.parametrize(
    "kind",
    [changes_it_between, reads_it_early, reads_every_step, grows_it_itself],
    ids=lambda each: each.__name__,
)
def test_where_it_would_not_be_as_alone_it_is_a_misfit(kind: Any, gpt2: Site) -> None:
    ended, another, *others = gpt2.merged(kind(1), kind(31), reads(11), reads(21))
    assert ended.misfit
    assert another.misfit
    for start, each in zip((11, 21), others, strict=True):
        assert fits(gpt2.solo(reads(start)), each, TOLERANCE)


def caches_inputs(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend) as tracer:
            cache = tracer.cache(include_inputs=True).save()

    return program


def caches_steps(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.generate(prompt(start), max_new_tokens=2, backend=backend) as tracer:
            cache = tracer.cache().save()

    return program


@pytest.mark.parametrize("kind", [caches_inputs, caches_steps], ids=lambda each: each.__name__)
def test_who_records_a_growing_one_runs_by_itself(kind: Any, gpt2: Site) -> None:
    for ended in gpt2.merged(kind(1), kind(11)):
        assert (ended.shared, ended.misfit, ended.failed) == (0, "", "")
