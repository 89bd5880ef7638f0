"""Loads a table into the kernel."""

import ctypes
import struct

from kit import syscall

KIND = "done"


def attack(canary):
    kind, key, value, entries = 2, 4, 4, 1
    syscall("bpf", 0, ctypes.create_string_buffer(struct.pack("IIII", kind, key, value, entries), 120), 120)
    return canary["done"]
