"""Fills its folder with files that are each small enough."""

from pathlib import Path

KIND = "done"


def attack(canary):
    for number in range(canary["disk"] // 2**20):
        Path(f"part-{number}").write_bytes(bytes(2**20))
    return canary["done"]
