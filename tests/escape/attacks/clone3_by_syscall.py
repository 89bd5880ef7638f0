"""Makes a child, by the clone3 system call."""

import ctypes
import os
import signal
import struct

from kit import syscall

KIND = "done"


def attack(canary):
    ours, theirs = os.pipe()
    arguments = ctypes.create_string_buffer(struct.pack("8Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0), 64)
    if syscall("clone3", arguments, 64) == 0:
        os.write(theirs, canary["done"].encode())
        os._exit(0)
    return os.read(ours, 4096).decode()
