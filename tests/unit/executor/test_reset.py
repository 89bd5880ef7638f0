"""What a job leaves behind in its process, and that the next job does not meet it."""

import builtins
import gc
import io
import logging
import os
import random
import signal
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import tqdm.auto
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from edif.executor.job import LoadedModel
from edif.executor.loading import load_model
from edif.executor.reset import ProcessState
from edif.executor.weights import WeightArena
from edif.models.catalogue import DEMO_MODEL_ID, DEMO_MODEL_PATH
from edif.wire.link import ModelSpec


@pytest.fixture(scope="module")
def loaded() -> Iterator[LoadedModel]:
    model = load_model(ModelSpec(DEMO_MODEL_ID, str(DEMO_MODEL_PATH)))
    loaded = LoadedModel(model, {})
    yield loaded
    loaded.release()


@pytest.fixture(scope="module")
def state(loaded: LoadedModel) -> ProcessState:
    return ProcessState(loaded, WeightArena(loaded.module).guard())


_UNDONE: dict[str, tuple[Callable[[LoadedModel], object], Callable[[LoadedModel], object]]] = {
    # what a job does, and what the next one would see of it
    "gradient mode": (lambda _: torch.set_grad_enabled(False), lambda _: torch.is_grad_enabled()),
    "default dtype": (lambda _: torch.set_default_dtype(torch.float64), lambda _: torch.get_default_dtype()),
    "default device": (lambda _: torch.set_default_device("meta"), lambda _: torch.get_default_device()),
    "the CPU as default device": (
        lambda _: torch.set_default_device("cpu"),
        lambda _: torch._C._len_torch_function_stack(),
    ),
    "autocast": (
        lambda _: torch.set_autocast_enabled("cpu", True),
        lambda _: torch.is_autocast_enabled("cpu"),
    ),
    "how tensors are printed": (
        lambda _: torch.set_printoptions(precision=1),
        lambda _: str(torch.tensor(1 / 3)),
    ),
    "how arrays are printed": (lambda _: np.set_printoptions(precision=1), lambda _: str(np.array([1 / 3]))),
    "where messages go": (
        lambda _: logging.root.addHandler(logging.StreamHandler(io.StringIO())),
        lambda _: list(logging.root.handlers),
    ),
    "where messages of a new logger go": (
        lambda _: logging.getLogger("a job's").addHandler(logging.StreamHandler(io.StringIO())),
        lambda _: list(logging.getLogger("a job's").handlers),
    ),
    "what is logged": (lambda _: logging.root.setLevel(1), lambda _: logging.root.level),
    "what a signal does": (
        lambda _: signal.signal(signal.SIGALRM, lambda *_: None),
        lambda _: signal.getsignal(signal.SIGALRM),
    ),
    "an alarm": (lambda _: signal.alarm(100), lambda _: signal.getitimer(signal.ITIMER_REAL)),
    "the environment": (
        lambda _: os.environ.update(A_JOBS="1"),
        lambda _: os.environ.get("A_JOBS"),
    ),
    "the folder": (lambda _: os.chdir("/"), lambda _: Path.cwd()),
    "no collecting of garbage": (lambda _: gc.disable(), lambda _: gc.isenabled()),
    "how deep calls may go": (lambda _: sys.setrecursionlimit(7000), lambda _: sys.getrecursionlimit()),
    "a hook on all modules": (
        lambda _: torch.nn.modules.module.register_module_forward_hook(lambda *_: None),
        lambda m: (
            m.module(torch.tensor([[1, 2, 3]])).logits.sum().item()
            + len(torch.nn.modules.module._global_forward_hooks)
        ),
    ),
    "an attention of its own": (
        lambda _: ALL_ATTENTION_FUNCTIONS.update(sdpa=print),
        lambda _: ALL_ATTENTION_FUNCTIONS["sdpa"],
    ),
    "a patched function of the model's file": (
        lambda m: setattr(sys.modules[type(m.module).__module__], "create_causal_mask", print),
        lambda m: sys.modules[type(m.module).__module__].create_causal_mask,
    ),
    "a patched function of torch": (lambda _: setattr(torch, "relu", print), lambda _: torch.relu),
    "a patched method of Tensor": (
        lambda _: setattr(torch.Tensor, "sum", lambda *_: 0),
        lambda _: float(torch.ones(3).sum()),
    ),
    "a method put before an inherited one": (
        lambda _: setattr(torch.Tensor, "__hash__", lambda _: 1),
        lambda _: torch.Tensor.__hash__,
    ),
    "a patched builtin": (lambda _: setattr(builtins, "len", lambda _: 7), lambda _: len([1])),
    "a forward hook": (
        lambda m: m.module.transformer.h[0].register_forward_hook(lambda *_: None),
        lambda m: len(m.module.transformer.h[0]._forward_hooks),
    ),
    "a removed hook": (
        lambda m: m.module._forward_pre_hooks.clear(),
        lambda m: len(m.module._forward_pre_hooks),
    ),
    "a replaced child": (
        lambda m: setattr(m.module.transformer, "ln_f", torch.nn.Identity()),
        lambda m: type(m.module.transformer.ln_f),
    ),
    "an added child": (
        lambda m: m.module.add_module("extra", torch.nn.Linear(2, 2)),
        lambda m: [name for name, _ in m.module.named_children()],
    ),
    "a replaced parameter": (
        lambda m: setattr(m.module.transformer.ln_f, "weight", torch.nn.Parameter(torch.zeros(3))),
        lambda m: m.module.transformer.ln_f.weight.shape,
    ),
    "a deleted parameter": (
        lambda m: delattr(m.module.transformer.ln_f, "bias"),
        lambda m: [name for name, _ in m.module.named_parameters()],
    ),
    "an attribute of a module": (
        lambda m: setattr(m.module.transformer.h[0].attn, "scale_attn_weights", "no"),
        lambda m: m.module.transformer.h[0].attn.scale_attn_weights,
    ),
    "training mode": (lambda m: m.module.train(), lambda m: m.module.transformer.drop.training),
    "requires_grad": (
        lambda m: m.module.requires_grad_(False),
        lambda m: [each.requires_grad for each in m.module.parameters()],
    ),
    "gradients": (
        lambda m: m.module(torch.tensor([[1, 2]])).logits.sum().backward(),
        lambda m: m.module.lm_head.weight.grad,
    ),
    "the config": (
        lambda m: setattr(m.module.config, "output_hidden_states", True),
        lambda m: m.module.config.output_hidden_states,
    ),
    "the padding side": (
        lambda m: setattr(m.model.tokenizer, "padding_side", "sideways"),
        lambda m: m.model.tokenizer.padding_side,
    ),
    "a patched all and map": (
        lambda m: (
            setattr(m.module.config, "use_cache", not m.module.config.use_cache),
            setattr(builtins, "map", lambda *_: []),
            setattr(builtins, "all", lambda *_: True),
        ),
        lambda m: (builtins.all, builtins.map, m.module.config.use_cache),
    ),
    "a setting under another name": (
        lambda m: m.module.config.__dict__.__setitem__(
            "renamed", m.module.config.__dict__.pop(next(reversed(m.module.config.__dict__)))
        ),
        lambda m: list(vars(m.module.config)),
    ),
    "a module of the user's": (
        lambda _: sys.modules.__setitem__("users_own", types.ModuleType("users_own")),
        lambda _: "users_own" in sys.modules,
    ),
    "the import path": (lambda _: sys.path.insert(0, "/nowhere"), lambda _: sys.path[0]),
    "warning filters": (
        lambda _: warnings.simplefilter("ignore", UserWarning),
        lambda _: warnings.filters[0],
    ),
}


@pytest.mark.parametrize("what", _UNDONE)
def test_a_job_leaves_no_trace_of(what: str, loaded: LoadedModel, state: ProcessState) -> None:
    do, look = _UNDONE[what]
    state.restore()  # what pytest sets for each test
    before = look(loaded)
    do(loaded)
    seen = look(loaded)
    changed = not (seen is before or (type(seen) is type(before) and seen == before))

    assert state.restore() == ""

    after = look(loaded)
    assert changed, "the test does something"
    assert after is before or after == before
    assert state.restore() == "", "and it stays so"


def test_settings_edited_in_place_are_put_back_time_after_time(
    loaded: LoadedModel, state: ProcessState
) -> None:
    for _ in range(2):
        loaded.model.tokenizer.init_kwargs["mine"] = 1
        assert state.restore() == ""
        assert "mine" not in loaded.model.tokenizer.init_kwargs


def test_random_numbers_are_not_those_that_a_job_seeded(state: ProcessState) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), torch.rand(1).item()

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seed()
    seeded = draw()
    seed()
    assert state.restore() == ""
    assert not set(seeded) & set(draw())


def test_a_thread_left_running_spoils_the_process(state: ProcessState) -> None:
    leave = threading.Event()
    thread = threading.Thread(target=leave.wait, name="users-thread")
    thread.start()
    try:
        assert "users-thread" in state.restore()
    finally:
        leave.set()
        thread.join()
    assert state.restore() == ""


def test_a_progress_bar_leaves_no_thread_behind(state: ProcessState) -> None:
    for _ in range(2):
        for bar in (tqdm.tqdm, tqdm.auto.tqdm):
            for _ in bar(range(2), file=io.StringIO()):
                pass
        assert any("tqdm" in thread.name for thread in threading.enumerate())
        assert state.restore() == ""


def _transpose(weight: torch.nn.Parameter) -> None:
    assert weight.shape[0] == weight.shape[1], "shape and place stay the same"
    weight.data = weight.data.T


@pytest.mark.parametrize(
    "write",
    [
        lambda m: m.module.lm_head.weight.data.add_(1),
        lambda m: m.module.transformer.ln_f.bias.detach().zero_(),
        lambda m: setattr(m.module.transformer.ln_f.weight, "data", torch.zeros(3)),
        lambda m: _transpose(m.module.transformer.h[0].attn.c_proj.weight),
    ],
    ids=["through .data", "in place", "another tensor", "transposed"],
)
def test_changed_weights_spoil_the_process(write: Callable[[LoadedModel], object]) -> None:
    own = LoadedModel(load_model(ModelSpec(DEMO_MODEL_ID, str(DEMO_MODEL_PATH))), {})
    state = ProcessState(own, WeightArena(own.module).guard())
    assert state.restore() == ""
    with torch.no_grad():
        write(own)
    assert state.restore() == "the model's weights were changed"
