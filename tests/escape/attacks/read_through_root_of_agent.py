"""Reads a private file through /proc/PID/root of the agent."""

from pathlib import Path

KIND = "secret"


def attack(canary):
    return Path(f"/proc/{canary['agent']}/root{canary['file']}").read_text()
