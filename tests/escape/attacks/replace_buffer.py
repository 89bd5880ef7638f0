"""Puts a buffer into the place where a module's output comes from."""

KIND = "neighbour"


def attack(canary, module):
    import torch

    layer = module.transformer.ln_f
    weight = layer.weight.detach() * 7
    del layer.weight
    layer.register_buffer("weight", weight)
    assert isinstance(layer.weight, torch.Tensor)
