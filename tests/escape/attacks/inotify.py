"""Watches a secret, to hear when it is used."""

from kit import syscall

KIND = "done"


def attack(canary):
    syscall("inotify_add_watch", syscall("inotify_init1", 0), canary["file"].encode(), 0xFFF)
    return canary["done"]
