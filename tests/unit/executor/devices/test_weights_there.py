"""A model that computes on a device, from the side of a fork."""

import os

import pytest
import torch

from edif.executor.devices import device_named
from edif.executor.devices.weights_there import GuardThere, WeightsThere, _move
from edif.executor.job import LoadedModel
from edif.executor.loading import load_model
from edif.executor.weights import WeightArena
from edif.models.catalogue import DEMO_MODEL_ID, DEMO_MODEL_PATH
from edif.wire.link import ON_HOST, ModelSpec
from tests.support.devices import DEVICES


class _Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(100, 32)
        self.head = torch.nn.Linear(32, 100, bias=False)
        self.head.weight = self.embed.weight
        self.low = torch.nn.Linear(32, 700, dtype=torch.bfloat16)
        self.register_buffer("view", torch.arange(12.0).view(3, 4).t()[1:])
        self.register_buffer("other_view", self.view[:2])
        self.register_buffer("empty", torch.empty(0))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(ids) + self.view.sum())


@pytest.mark.parametrize("name", DEVICES)
def test_the_model_computes_there_with_the_same_objects(name: str) -> None:
    torch.manual_seed(1)
    model = _Model()
    ids = torch.tensor([3, 5, 7])
    before = model(ids).detach()
    objects = [id(each) for each in (*model.parameters(), *model.buffers())]
    copies = {key: value.clone() for key, value in model.state_dict().items()}
    arena = WeightArena(model)
    device = device_named(name)
    assert device is not None
    device.begin()
    span, _ = device.allocate(arena.whole.numel())
    there = span.view(0, arena.whole.numel())
    there.copy_(arena.whole)
    guard = GuardThere(there)
    there[0] += 1  # by another process's job, which the keeper then puts right
    assert guard.unchanged()
    there[0] -= 1
    guard.look()

    _move(model, arena, span, there.device)

    assert [id(each) for each in (*model.parameters(), *model.buffers())] == objects
    assert {each.device for each in (*model.parameters(), *model.buffers())} == {there.device}
    for key, value in model.state_dict().items():
        assert torch.equal(value.cpu(), copies[key]), key
        assert value.stride() == copies[key].stride() or value.numel() == 0 or key in ("view", "other_view")
    assert model.head.weight is model.embed.weight
    assert model.view.untyped_storage().data_ptr() == model.other_view.untyped_storage().data_ptr()
    assert model.embed.weight.untyped_storage().nbytes() == 100 * 32 * 4, "a storage of its own"
    torch.testing.assert_close(model(ids.to(there.device)).cpu(), before, rtol=1e-4, atol=1e-4)

    model(ids.to(there.device)).sum().backward()
    assert guard.unchanged()
    model.low.bias.data[3] += 1
    assert not guard.unchanged()


def test_a_pipeline_brings_its_inputs_there() -> None:
    loaded = LoadedModel(load_model(ModelSpec(DEMO_MODEL_ID, str(DEMO_MODEL_PATH))), adapters={})
    device = device_named(ON_HOST)
    assert device is not None
    weights = WeightsThere(device, WeightArena(loaded.module), lambda: torch.set_num_threads(1))
    loaded.model.pipeline.device = torch.device("meta")  # somewhere else
    there = weights.bring(loaded)
    assert loaded.model.pipeline.device == there.device
    weights.keeper.end()
    os.waitpid(weights.keeper.pid, 0)
