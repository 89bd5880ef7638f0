"""Leaves a key in the keyring of the account."""

from kit import syscall

KIND = "done"


def attack(canary):
    syscall("add_key", b"user", canary["mark"].encode(), b"payload", 7, -2)
    return canary["done"]
