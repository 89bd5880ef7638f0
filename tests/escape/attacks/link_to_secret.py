"""Reads a secret through a symbolic link in its own folder."""

from pathlib import Path

KIND = "secret"


def attack(canary):
    link = Path("link")
    link.symlink_to(canary["file"])
    return link.read_text()
