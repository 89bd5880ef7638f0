"""Writes another process's memory through /proc/PID/mem."""

from pathlib import Path

KIND = "done"


def attack(canary):
    with Path(f"/proc/{canary['process']}/mem").open("r+b", buffering=0) as memory:
        memory.seek(canary["address"])
        old = memory.read(4)
        memory.seek(canary["address"])
        assert memory.write(old) == 4
    return canary["done"]
