"""Lists the machine's processes."""

import os

KIND = "done"


def attack(canary):
    assert str(canary["process"]) in os.listdir("/proc")
    return canary["done"]
