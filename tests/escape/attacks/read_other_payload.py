"""Reads another job's payload by its path."""

from pathlib import Path

KIND = "secret"


def attack(canary):
    return Path(canary["payload"]).read_bytes().hex()
