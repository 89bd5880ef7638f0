"""Puts another storage under a weight."""

KIND = "neighbour"


def attack(canary, module):
    weight = module.transformer.h[2].mlp.c_proj.weight
    weight.data.set_(weight.detach().clone() * 3)
