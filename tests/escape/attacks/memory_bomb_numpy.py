"""Fills memory with arrays."""

import numpy

KIND = "done"


def attack(canary):
    held = [numpy.ones(2**20, dtype=numpy.uint8) for _ in range(canary["memory"] // 2**20)]
    return canary["done"] if held else None
