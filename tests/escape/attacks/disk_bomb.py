"""Fills its folder."""

from pathlib import Path

KIND = "done"


def attack(canary):
    with Path("big").open("wb") as file:
        for _ in range(canary["disk"] // 2**20):
            file.write(bytes(2**20))
    return canary["done"]
