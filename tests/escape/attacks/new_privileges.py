"""Takes back that it may gain no privileges."""

import ctypes

KIND = "done"


def attack(canary):
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 0, 0, 0, 0) == 0, ctypes.get_errno()
    return canary["done"]
