"""Changes the root of the tree of mounts."""

import os

from kit import syscall

KIND = "done"
BARE = "namespace"


def attack(canary):
    os.mkdir("new")
    syscall("mount", b"tmpfs", b"new", b"tmpfs", 0, 0)
    os.mkdir("new/old")
    syscall("pivot_root", b"new", b"new/old")
    return canary["done"]
