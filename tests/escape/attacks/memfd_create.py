"""Makes a file in memory, past the limits of memory and of its folder."""

import os

from kit import syscall

KIND = "done"


def attack(canary):
    os.write(syscall("memfd_create", b"hidden", 0), b"x")
    return canary["done"]
