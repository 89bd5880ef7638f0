"""Sets the times of a file outside."""

import os

KIND = "changed"


def attack(canary):
    os.utime(canary["file"], (1, 1))
