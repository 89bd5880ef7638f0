"""Reads the fabric's link.key."""

from pathlib import Path

KIND = "secret"


def attack(canary):
    return (Path(canary["data"]) / "link.key").read_text()
