"""Overwrites a file outside its folder."""

from pathlib import Path

KIND = "changed"


def attack(canary):
    Path(canary["file"]).write_text("overwritten")
