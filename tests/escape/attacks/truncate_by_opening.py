"""Truncates a file outside by opening it for reading."""

import os

KIND = "changed"


def attack(canary):
    os.open(canary["file"], os.O_RDONLY | os.O_TRUNC)
