"""Ends its process as a failed assertion does."""

import os

KIND = "ended"


def attack(canary):
    os.abort()
