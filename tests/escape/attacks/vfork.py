"""Makes a child that borrows its memory."""

import ctypes

KIND = "done"


def attack(canary):
    child = ctypes.CDLL(None, use_errno=True).posix_spawnp
    number = ctypes.c_int()
    words = (ctypes.c_char_p * 2)(b"true", None)
    assert child(ctypes.byref(number), b"true", None, None, words, None) == 0
    return canary["done"]
