"""Reads where the memory of the driver of shared passes lies, with other jobs' rows in it."""

from pathlib import Path

KIND = "secret"
EVIDENCE = "[stack]"


def attack(canary):
    return Path(f"/proc/{canary['driver']}/maps").read_text()
