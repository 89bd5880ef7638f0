"""Makes its memory readable to others again."""

import ctypes

KIND = "done"


def attack(canary):
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(4, 1, 0, 0, 0) == 0, ctypes.get_errno()
    return canary["done"]
