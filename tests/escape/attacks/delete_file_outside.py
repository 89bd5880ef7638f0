"""Deletes a file outside."""

import os

KIND = "changed"


def attack(canary):
    os.unlink(canary["file"])
