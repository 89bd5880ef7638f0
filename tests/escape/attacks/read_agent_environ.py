"""Reads the environment of the agent."""

from pathlib import Path

KIND = "secret"


def attack(canary):
    return Path(f"/proc/{canary['agent']}/environ").read_text()
