"""Reads another process's memory through /proc/PID/mem."""

from pathlib import Path

KIND = "secret"


def attack(canary):
    with Path(f"/proc/{canary['process']}/mem").open("rb", buffering=0) as memory:
        memory.seek(canary["address"])
        return memory.read(canary["length"]).decode("latin-1")
