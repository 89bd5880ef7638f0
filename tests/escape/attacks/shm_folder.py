"""Leaves a file in the machine's shared memory folder."""

from pathlib import Path

KIND = "done"


def attack(canary):
    path = Path("/dev/shm") / canary["mark"]
    path.write_text("x")
    path.unlink()
    return canary["done"]
