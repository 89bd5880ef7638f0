"""Reads where the zygote's memory lies."""

from pathlib import Path

KIND = "secret"
EVIDENCE = "[stack]"


def attack(canary):
    return Path(f"/proc/{canary['zygote']}/maps").read_text()
