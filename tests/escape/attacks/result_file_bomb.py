"""Writes far into the file that its result goes to."""

import os

KIND = "done"


def attack(canary):
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.path.isfile(f"/proc/self/fd/{name}"):
                os.pwrite(int(name), b"x", canary["result_bytes"])
                return canary["done"]
        except OSError:
            continue
    return "no room"
