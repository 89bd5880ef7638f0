"""Reads another process's memory by system call."""

import ctypes

from kit import span, syscall

KIND = "secret"


def attack(canary):
    size = canary["length"]
    buffer = ctypes.create_string_buffer(size)
    local = span(ctypes.addressof(buffer), size)
    remote = span(canary["address"], size)
    syscall("process_vm_readv", canary["process"], ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    return buffer.raw.decode("latin-1")
