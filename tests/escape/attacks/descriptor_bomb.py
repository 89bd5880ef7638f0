"""Opens files without end."""

import os

KIND = "done"


def attack(canary):
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(canary["descriptors"])]
    for fd in held:
        os.close(fd)
    return canary["done"]
