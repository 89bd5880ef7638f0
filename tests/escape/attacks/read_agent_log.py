"""Reads the agent's log."""

from pathlib import Path

KIND = "secret"
EVIDENCE = "agent.connected"


def attack(canary):
    return Path(canary["log"]).read_text()
