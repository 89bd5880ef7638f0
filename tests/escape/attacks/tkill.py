"""Kills a thread of another process."""

import signal

from kit import syscall

KIND = "killed"


def attack(canary):
    syscall("tkill", canary["process"], signal.SIGKILL)
