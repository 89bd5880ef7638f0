"""Takes a copy of the tree of mounts."""

from kit import syscall

KIND = "done"
BARE = "namespace"


def attack(canary):
    syscall("open_tree", -100, b"/", 0x8001)
    return canary["done"]
