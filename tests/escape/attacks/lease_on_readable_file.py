"""Takes a lease on a file that it may read: whoever opens it for writing then waits for most of a minute."""

import fcntl
import os

KIND = "done"


def attack(canary):
    fcntl.fcntl(os.open(canary["readable"], os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_RDLCK)
    return canary["done"]
