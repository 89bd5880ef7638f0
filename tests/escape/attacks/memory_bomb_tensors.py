"""Fills memory with tensors."""

KIND = "done"


def attack(canary):
    import torch

    held = [torch.ones(2**20, dtype=torch.uint8) for _ in range(canary["memory"] // 2**20)]
    return canary["done"] if held else None
