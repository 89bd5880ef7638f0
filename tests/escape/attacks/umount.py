"""Takes the file system of its own folder away, and with it its size limit."""

import os

from kit import syscall

KIND = "done"
BARE = "namespace"


def attack(canary):
    syscall("umount2", os.getcwd().encode(), 2)
    return canary["done"]
