"""Ends its process without a word."""

import os

KIND = "ended"


def attack(canary):
    os._exit(3)
