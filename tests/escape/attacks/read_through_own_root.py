"""Reads a private file through /proc/self/root."""

from pathlib import Path

KIND = "secret"


def attack(canary):
    return Path(f"/proc/self/root{canary['file']}").read_text()
