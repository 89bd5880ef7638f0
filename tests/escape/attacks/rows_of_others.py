"""Puts a tensor with rows for everybody in the place of its own."""

KIND = "rows"


def attack(canary, rows):
    import torch

    return torch.full((max(len(rows), 2), *rows.shape[1:]), 7.0)
