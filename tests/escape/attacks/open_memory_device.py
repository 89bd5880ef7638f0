"""Opens a device of the machine's memory."""

import os

KIND = "done"


def attack(canary):
    for path in ("/dev/mem", "/dev/kmem", "/dev/port"):
        if os.path.exists(path):
            os.close(os.open(path, os.O_RDONLY))
            return canary["done"]
