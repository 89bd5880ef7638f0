"""Makes a child with a user namespace of its own."""

import os
import signal

from kit import syscall

KIND = "done"


def attack(canary):
    ours, theirs = os.pipe()
    if syscall("clone", signal.SIGCHLD | 0x10000000, 0, 0, 0, 0) == 0:
        os.write(theirs, canary["done"].encode())
        os._exit(0)
    return os.read(ours, 4096).decode()
