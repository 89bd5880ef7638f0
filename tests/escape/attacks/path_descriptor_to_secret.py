"""Opens a secret as a mere path and then that path through /proc/self/fd."""

import os
from pathlib import Path

KIND = "secret"


def attack(canary):
    fd = os.open(canary["file"], os.O_PATH)
    return Path(f"/proc/self/fd/{fd}").read_text()
