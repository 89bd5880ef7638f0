"""Loading a model into the zygote."""

import pytest
import torch
from transformers.pipelines import base

from edif.executor.loading import load_model
from edif.models.catalogue import DEMO_MODEL_ID, DEMO_MODEL_PATH
from edif.wire.link import ModelSpec


def test_on_a_machine_with_a_card_it_goes_to_the_hosts_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would put it on the card, of which torch here has none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(base, "is_torch_cuda_available", lambda: True)
    model = load_model(ModelSpec(DEMO_MODEL_ID, str(DEMO_MODEL_PATH)))
    assert {each.device.type for each in model._module.parameters()} == {"cpu"}
