"""Opens a private file to everyone."""

import os

KIND = "changed"


def attack(canary):
    os.chmod(canary["file"], 0o777)
