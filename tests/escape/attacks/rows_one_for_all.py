"""Puts one number in the place of all rows, spread over them without memory of its own."""

KIND = "rows"


def attack(canary, rows):
    import torch

    return torch.zeros(()).expand(rows.shape)
