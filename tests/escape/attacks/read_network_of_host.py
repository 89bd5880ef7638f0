"""Reads which sockets the machine's other processes have."""

from pathlib import Path

KIND = "done"


def attack(canary):
    assert canary["abstract"] in Path("/proc/self/net/unix").read_text()
    return canary["done"]
