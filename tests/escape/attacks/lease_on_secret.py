"""Opens a file outside neither for reading nor for writing, and takes a lease on it."""

import fcntl
import os

KIND = "done"


def attack(canary):
    fcntl.fcntl(os.open(canary["file"], os.O_ACCMODE), fcntl.F_SETLEASE, fcntl.F_RDLCK)
    return canary["done"]
