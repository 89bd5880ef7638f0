"""Truncates a file outside by its path."""

import os

KIND = "changed"


def attack(canary):
    os.truncate(canary["file"], 0)
