"""Measures other processes."""

import ctypes
import struct

from kit import syscall

KIND = "done"


def attack(canary):
    attributes = ctypes.create_string_buffer(struct.pack("IIQ", 1, 112, 0), 112)  # software, cpu clock
    syscall("perf_event_open", attributes, 0, -1, -1, 0)
    return canary["done"]
