"""Replaces a builtin function."""

import builtins

KIND = "neighbour"


def attack(canary, module):
    builtins.sum = lambda *_a, **_k: 666
