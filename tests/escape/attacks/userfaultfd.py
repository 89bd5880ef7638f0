"""Takes page faults into its own hands."""

from kit import syscall

KIND = "done"


def attack(canary):
    syscall("userfaultfd", 1)
    return canary["done"]
