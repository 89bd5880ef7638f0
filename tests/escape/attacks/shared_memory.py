"""Makes shared memory that outlives it."""

from kit import syscall

KIND = "done"


def attack(canary):
    number = syscall("shmget", 0, 4096, 0o1600)
    syscall("shmctl", number, 0, 0)
    return canary["done"]
