"""Puts a file of its own in the place of one outside, by one call."""

from pathlib import Path

from kit import syscall

KIND = "changed"


def attack(canary):
    Path("mine").write_text("mine")
    syscall("renameat2", -100, b"mine", -100, canary["file"].encode(), 2)
