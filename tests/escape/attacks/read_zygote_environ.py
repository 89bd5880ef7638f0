"""Reads the environment of the zygote."""

from pathlib import Path

KIND = "secret"
EVIDENCE = "PATH="


def attack(canary):
    return Path(f"/proc/{canary['zygote']}/environ").read_text()
