"""Makes a terminal and types into it."""

import fcntl
import os

KIND = "done"


TIOCSTI = 0x5412


def attack(canary):
    fd = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
    try:
        fcntl.ioctl(fd, TIOCSTI, b"x")
    except OSError:
        pass  # later kernels forbid it to all
    return canary["done"]
