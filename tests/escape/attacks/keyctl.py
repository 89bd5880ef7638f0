"""Reads the keyring of the account."""

from kit import syscall

KIND = "done"


def attack(canary):
    syscall("keyctl", 0, -4, 1, 0, 0)
    return canary["done"]
