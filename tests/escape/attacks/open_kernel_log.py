"""Opens the kernel's log."""

import os

KIND = "done"


def attack(canary):
    os.close(os.open("/dev/kmsg", os.O_RDONLY))
    return canary["done"]
