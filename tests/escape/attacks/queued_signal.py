"""Kills a process by a queued signal."""

import ctypes
import signal
import struct

from kit import syscall

KIND = "killed"


def attack(canary):
    info = ctypes.create_string_buffer(struct.pack("iii", signal.SIGKILL, 0, -1), 128)
    syscall("rt_sigqueueinfo", canary["process"], signal.SIGKILL, info)
