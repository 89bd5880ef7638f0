"""Takes capabilities back."""

import ctypes
import struct

from kit import syscall

KIND = "done"
BARE = "namespace"


def attack(canary):
    header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0), 8)
    everything = ctypes.create_string_buffer(24)
    syscall("capget", header, everything)
    wanted = ctypes.create_string_buffer(struct.pack("6I", 1 << 21, 1 << 21, 0, 0, 0, 0), 24)
    syscall("capset", header, wanted)
    return canary["done"]
