"""Takes off the rule by which it dies with the zygote."""

import ctypes

KIND = "done"


def attack(canary):
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(1, 0, 0, 0, 0) == 0, ctypes.get_errno()
    return canary["done"]
