"""Opens its own payload again, for writing, through /proc/self/fd."""

import os

KIND = "done"


def attack(canary):
    for name in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{name}"
        if os.path.isfile(path):
            try:
                os.pread(int(name), 1, 0)  # the result can only be written
            except OSError:
                continue
            os.close(os.open(path, os.O_RDWR))
            return canary["done"]
    return "no payload"
