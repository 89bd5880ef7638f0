"""Makes a ring through which the kernel works on its behalf, past the filter of calls."""

import ctypes

from kit import syscall

KIND = "done"


def attack(canary):
    syscall("io_uring_setup", 4, ctypes.create_string_buffer(120))
    return canary["done"]
