"""Reads another job's result by its path."""

from pathlib import Path

KIND = "secret"


def attack(canary):
    return Path(canary["result"]).read_bytes().hex()
