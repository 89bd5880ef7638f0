"""Becomes a program that exists in memory only."""

import ctypes
import os
from pathlib import Path

from kit import syscall

KIND = "done"
EVIDENCE = "exited with code 77"


def attack(canary):
    fd = syscall("memfd_create", b"program", 0)
    os.write(fd, Path("/bin/sh").read_bytes())
    words = (ctypes.c_char_p * 4)(b"sh", b"-c", b"exit 77", None)
    syscall("execveat", fd, b"", words, None, 0x1000)
