"""Takes all rights to a folder away from its owner."""

from kit import syscall

KIND = "changed"


def attack(canary):
    syscall("fchmodat", -100, canary["folder"].encode(), 0o500)
