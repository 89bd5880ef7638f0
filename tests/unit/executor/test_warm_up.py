"""The rehearsal: as much of a job as teaches a process something, and no more."""

import linecache
from typing import Any

import pytest
import torch

from edif.executor import warm_up
from edif.executor.job import LoadedModel
from edif.executor.loading import load_model
from edif.models.catalogue import DEMO_MODEL_ID, DEMO_MODEL_PATH
from edif.wire.link import ModelSpec


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model(ModelSpec(DEMO_MODEL_ID, str(DEMO_MODEL_PATH)))


@pytest.fixture(autouse=True)
def fresh_sources() -> None:
    """A zygote warms up once; what it shipped to itself stays in the place of the file it came from."""
    linecache.clearcache()


def _calls(model: Any, payload: bytes) -> set[str]:
    """The modules that a rehearsal with this payload calls."""
    module: torch.nn.Module = model._module
    called: set[str] = set()
    hooks = [
        part.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, part in module.named_modules()
    ]
    loaded = LoadedModel(model, adapters={})
    try:
        warm_up.rehearse(loaded, payload)
    finally:
        loaded.release()
        for hook in hooks:
            hook.remove()
    return called


def test_of_a_small_model_the_whole_pass_is_rehearsed(model: Any) -> None:
    assert {"transformer.h.0.mlp.c_fc", "lm_head"} <= _calls(model, warm_up.warm_up(model).start)


def test_of_a_large_model_the_beginning_is_rehearsed(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    block = sum(each.nbytes for each in model._module.transformer.h[0].parameters())
    embeddings = model._module.transformer.wte.weight.nbytes + model._module.transformer.wpe.weight.nbytes
    monkeypatch.setattr(warm_up, "_REHEARSED_BYTES", embeddings + block)
    called = _calls(model, warm_up.warm_up(model).start)
    assert "transformer.h.0.mlp.c_fc" in called
    assert called.isdisjoint({"transformer.h.1.mlp.c_fc", "lm_head"})


def test_it_leaves_no_hooks(model: Any) -> None:
    warm_up.warm_up(model)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model._module.modules())


def test_a_model_that_needs_more_than_token_ids_is_served_without(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def needs_more(*_: object, **__: object) -> None:
        raise ValueError("You have to specify decoder_input_ids")

    monkeypatch.setattr(model._module, "forward", needs_more)
    assert warm_up.warm_up(model) == warm_up.Rehearsals()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model._module.modules())
