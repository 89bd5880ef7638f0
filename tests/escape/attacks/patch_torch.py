"""Replaces a function of torch."""

KIND = "neighbour"


def attack(canary, module):
    import torch

    torch.nn.functional.linear = torch.nn.functional.layer_norm = lambda *_a, **_k: None
    torch.Tensor.matmul = lambda *_a: None
    torch.nn.Linear.forward = lambda self, x: torch.zeros(*x.shape[:-1], self.out_features)
