"""Puts another parameter in a module."""

KIND = "neighbour"


def attack(canary, module):
    import torch

    old = module.transformer.ln_f.weight
    module.transformer.ln_f.weight = torch.nn.Parameter(old.detach() * 5)
