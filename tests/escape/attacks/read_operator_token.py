"""Reads the fabric's operator.token."""

from pathlib import Path

KIND = "secret"


def attack(canary):
    return (Path(canary["data"]) / "operator.token").read_text()
