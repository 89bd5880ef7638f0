"""Becomes another program, by system call."""

import ctypes

from kit import syscall

KIND = "done"
EVIDENCE = "exited with code 77"


def attack(canary):
    words = (ctypes.c_char_p * 4)(b"sh", b"-c", b"exit 77", None)
    syscall("execve", b"/bin/sh", words, None)
