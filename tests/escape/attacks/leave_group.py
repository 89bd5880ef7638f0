"""Leaves the replica's process group and session."""

import os

KIND = "done"


def attack(canary):
    os.setsid()
    return canary["done"]
