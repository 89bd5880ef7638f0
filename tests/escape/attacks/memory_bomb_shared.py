"""Fills memory that is shared and so counted elsewhere."""

import mmap

KIND = "done"


def attack(canary):
    held = mmap.mmap(-1, canary["memory"])
    for at in range(0, canary["memory"], 4096):
        held[at] = 1
    return canary["done"]
