"""Reads a secret through a hard link in its own folder."""

import os
from pathlib import Path

KIND = "secret"


def attack(canary):
    os.link(canary["file"], "hard-link")
    return Path("hard-link").read_text()
