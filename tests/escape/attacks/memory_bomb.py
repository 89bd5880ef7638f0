"""Fills memory with one long value."""

KIND = "done"


def attack(canary):
    held = bytearray(canary["memory"])
    held[::4096] = b"x" * len(held[::4096])
    return canary["done"]
