"""Switches the randomisation of addresses off."""

from kit import syscall

KIND = "done"


def attack(canary):
    syscall("personality", 0x0040000)
    return canary["done"]
