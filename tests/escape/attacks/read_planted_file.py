"""Reads a private file of the account outside everything that was given."""

from pathlib import Path

KIND = "secret"


def attack(canary):
    return Path(canary["file"]).read_text()
