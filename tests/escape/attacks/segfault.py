"""Reads memory that it does not have."""

import ctypes

KIND = "ended"


def attack(canary):
    return ctypes.string_at(0)
