"""Leaves gradients switched off and another default type."""

KIND = "neighbour"


def attack(canary, module):
    import torch

    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
