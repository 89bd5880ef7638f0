"""Writes another process's memory by system call."""

import ctypes

from kit import span, syscall

KIND = "done"


def attack(canary):
    buffer = ctypes.create_string_buffer(b"S", 1)
    local = span(ctypes.addressof(buffer), 1)
    remote = span(canary["address"], 1)
    assert (
        syscall("process_vm_writev", canary["process"], ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
        == 1
    )
    return canary["done"]
