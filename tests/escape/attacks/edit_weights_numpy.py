"""Edits a weight through numpy."""

KIND = "neighbour"


def attack(canary, module):
    module.transformer.h[0].mlp.c_fc.weight.detach().numpy()[:] = 0.5
