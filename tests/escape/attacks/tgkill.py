"""Kills a process by the id of its thread."""

import signal

from kit import syscall

KIND = "killed"


def attack(canary):
    syscall("tgkill", canary["process"], canary["process"], signal.SIGKILL)
