"""Recurses in C until the stack ends."""

import ctypes

KIND = "ended"


def attack(canary):
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
    sort = ctypes.CDLL(None).qsort
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)

    def deeper(_a, _b):
        return 0

    ctypes.memset(id(deeper), 0x41, 64)  # and the object that is called is no object any more
    sort((ctypes.c_int * 4)(), 4, 4, compare(deeper))
    return kind
