"""Reads the fabric's worker.token."""

from pathlib import Path

KIND = "secret"


def attack(canary):
    return (Path(canary["data"]) / "worker.token").read_text()
