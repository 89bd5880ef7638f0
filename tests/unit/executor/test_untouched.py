"""What a job has changed that a pass which another process runs would not show."""

import builtins
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from edif.executor.untouched import Untouched
from edif.executor.weights import WeightArena
from tests.unit.executor.merging import tiny

WEIGHTS = "it changes the model's weights"
MODULES = "it changes the model's modules or hooks"
COMPUTES = "it changes how the model computes"
TORCH = "it changes how torch computes"

Act = Callable[[Any], object]


@pytest.fixture
def module() -> Any:
    return tiny.gpt2()._module


@pytest.fixture
def untouched(module: Any) -> Untouched:
    return Untouched(module, WeightArena(module).guard())


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(False)
    torch.set_grad_enabled(True)
    torch.autograd.set_detect_anomaly(False)
    torch.set_autocast_enabled("cpu", False)
    torch.nn.modules.module._global_forward_pre_hooks.clear()


CHANGES: dict[str, tuple[Act, str]] = {
    "a weight in place": (lambda m: m.lm_head.weight.data.add_(1), WEIGHTS),
    "one number of a weight": (lambda m: m.transformer.ln_f.bias.detach()[3].fill_(9), WEIGHTS),
    "another tensor in its place": (
        lambda m: setattr(m.transformer.ln_f.weight, "data", torch.zeros(64)),
        WEIGHTS,
    ),
    "a view of a weight": (
        lambda m: setattr(
            m.transformer.h[0].attn.c_proj.weight, "data", m.transformer.h[0].attn.c_proj.weight.T
        ),
        WEIGHTS,
    ),
    "another parameter": (
        lambda m: setattr(m.transformer.ln_f, "weight", torch.nn.Parameter(torch.ones(64))),
        MODULES,
    ),
    "a hook": (lambda m: m.transformer.h[1].register_forward_hook(lambda *_: None), MODULES),
    "a hook on all modules": (
        lambda _: torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: None),
        MODULES,
    ),
    "narrower numbers": (lambda _: torch.set_autocast_enabled("cpu", True), TORCH),
    "a hook before": (lambda m: m.lm_head.register_forward_pre_hook(lambda *_: None), MODULES),
    "a module": (lambda m: setattr(m.transformer.h[0], "mlp", torch.nn.Identity()), MODULES),
    "an added module": (lambda m: m.transformer.add_module("probe", torch.nn.Linear(2, 2)), MODULES),
    "a module out of its list": (lambda m: m.transformer.h.__delitem__(2), MODULES),
    "training": (lambda m: m.train(), MODULES),
    "a forward of its own": (lambda m: setattr(m.lm_head, "forward", lambda x: x), MODULES),
    "the config": (lambda m: setattr(m.config, "_attn_implementation_internal", "eager"), COMPUTES),
    "the config of generations": (lambda m: setattr(m.generation_config, "do_sample", True), COMPUTES),
    "the default dtype": (lambda _: torch.set_default_dtype(torch.float64), COMPUTES),
    "deterministic algorithms": (lambda _: torch.use_deterministic_algorithms(True), TORCH),
}


@pytest.mark.parametrize(("act", "reason"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_noticed(act: Act, reason: str, module: Any, untouched: Untouched) -> None:
    assert untouched.changed() == ""
    act(module)
    assert untouched.changed() == reason


PATCHES: dict[str, tuple[Any, str]] = {
    "a function of torch": (torch, "matmul"),
    "a functional": (torch.nn.functional, "scaled_dot_product_attention"),
    "a method of tensors": (torch.Tensor, "add_"),
    "a method of modules": (torch.nn.Module, "__call__"),
    "the class of a layer": (torch.nn.LayerNorm, "forward"),
    "a method that a layer inherits": (torch.nn.LayerNorm, "__call__"),
    "a builtin": (builtins, "sum"),
}


@pytest.mark.parametrize(("owner", "name"), PATCHES.values(), ids=PATCHES)
def test_a_patch_is_noticed(
    owner: Any, name: str, untouched: Untouched, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert untouched.changed() == ""
    before = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **kwargs: before(*args, **kwargs))
    assert untouched.changed() == COMPUTES
    monkeypatch.undo()
    assert untouched.changed() == ""


HARMLESS: dict[str, Act] = {
    "a forward pass": lambda m: m(torch.tensor([[2, 3]])),
    "a generation": lambda m: m.generate(
        torch.tensor([[2, 3]]), attention_mask=torch.ones(1, 2), max_new_tokens=2, do_sample=False
    ),
    "gradients off": lambda _: torch.set_grad_enabled(False),
    "reading weights": lambda m: [each.sum() for each in m.parameters()],
    "gradients": lambda m: m(torch.tensor([[2, 3]])).logits.sum().backward(),
}


@pytest.mark.parametrize("act", HARMLESS.values(), ids=HARMLESS)
def test_what_changes_nothing_is_no_change(act: Act, module: Any, untouched: Untouched) -> None:
    act(module)
    assert untouched.changed() == ""


def test_what_is_undone_is_no_change(module: Any, untouched: Untouched) -> None:
    handle = module.lm_head.register_forward_hook(lambda *_: None)
    assert untouched.changed() == MODULES
    handle.remove()
    assert untouched.changed() == ""
