"""Reads the agent's command line."""

from pathlib import Path

KIND = "secret"
EVIDENCE = "\x00"


def attack(canary):
    return Path(f"/proc/{canary['agent']}/cmdline").read_text()
