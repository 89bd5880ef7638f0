"""Says to the driver of shared passes what is no message at all."""

import os

from kit import seat

KIND = "frames"


def attack(canary):
    link = seat()
    for size in (1, 7, 300, 60_000):
        link.send(os.urandom(size))
    link.send(canary["mark"].encode())
