"""Becomes another user."""

import os

KIND = "done"


def attack(canary):
    os.setuid(65534)
    return canary["done"]
