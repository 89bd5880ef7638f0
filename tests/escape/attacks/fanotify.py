"""Watches a whole file system."""

from kit import syscall

KIND = "done"


def attack(canary):
    syscall("fanotify_init", 0, 0)
    return canary["done"]
