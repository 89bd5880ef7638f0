"""Makes a child, by the clone system call."""

import os
import signal

from kit import syscall

KIND = "done"


def attack(canary):
    ours, theirs = os.pipe()
    if syscall("clone", signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os.write(theirs, canary["done"].encode())
        os._exit(0)
    return os.read(ours, 4096).decode()
