"""Makes the memory that it shares with the driver larger than its own limit."""

import os

from kit import keeping_memory, kept_memory

KIND = "done"
pack = keeping_memory


def attack(canary):
    os.posix_fallocate(kept_memory(), 0, canary["memory"])
    return canary["done"]
