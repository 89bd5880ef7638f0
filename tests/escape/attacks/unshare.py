"""Takes a user namespace of its own, in which it has every capability."""

from kit import syscall

KIND = "done"


def attack(canary):
    syscall("unshare", 0x10000000)
    return canary["done"]
