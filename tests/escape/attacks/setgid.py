"""Becomes a member of another group."""

import os

KIND = "done"


def attack(canary):
    os.setgid(65534)
    return canary["done"]
