"""Maps a secret into memory by system calls of its own."""

import mmap
import os

from kit import syscall

KIND = "secret"


def attack(canary):
    fd = syscall("openat", -100, canary["file"].encode(), os.O_RDONLY)
    return mmap.mmap(fd, 0, prot=mmap.PROT_READ)[:].decode()
