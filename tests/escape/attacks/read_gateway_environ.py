"""Reads the environment of the gateway."""

from pathlib import Path

KIND = "secret"


def attack(canary):
    return Path(f"/proc/{canary['gateway']}/environ").read_text()
