"""Edits a weight through .data."""

KIND = "neighbour"


def attack(canary, module):
    module.lm_head.weight.data.mul_(2.0)
