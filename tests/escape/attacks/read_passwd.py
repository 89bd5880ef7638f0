"""Reads the machine's accounts."""

from pathlib import Path

KIND = "secret"
EVIDENCE = "root:"


def attack(canary):
    return Path("/etc/passwd").read_text()
