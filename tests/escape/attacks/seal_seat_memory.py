"""Seals the memory that it shares with the driver, so that the driver cannot write to it any more."""

import fcntl

from kit import keeping_memory, kept_memory

KIND = "done"
F_SEAL_FUTURE_WRITE = 0x10
pack = keeping_memory


def attack(canary):
    fcntl.fcntl(kept_memory(), fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE)
    return canary["done"]
