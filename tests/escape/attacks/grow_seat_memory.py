"""Makes the memory that it shares with the driver larger than its own limit."""

import os

from kit import kept_memory, keeping_memory

KIND = "done"
pack = keeping_memory


def attack(canary):
    os.posix_fallocate(kept_memory(), 0, canary["memory"])
    return canary["done"]
