"""Leaves a file in the machine's folder for temporary files."""

from pathlib import Path

KIND = "done"


def attack(canary):
    path = Path("/tmp") / canary["mark"]
    path.write_text("x")
    path.unlink()
    return canary["done"]
