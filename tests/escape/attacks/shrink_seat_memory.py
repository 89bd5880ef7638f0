"""Takes the memory that it shares with the driver from under it."""

import os

from kit import keeping_memory, kept_memory

KIND = "done"
pack = keeping_memory


def attack(canary):
    os.ftruncate(kept_memory(), 0)
    return canary["done"]
