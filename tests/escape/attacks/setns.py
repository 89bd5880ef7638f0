"""Enters the namespaces of another process."""

from kit import syscall

KIND = "done"
BARE = "namespace"


def attack(canary):
    syscall("setns", syscall("pidfd_open", canary["process"], 0), 0x40000000)
    return canary["done"]
