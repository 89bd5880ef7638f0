"""Kills a process through a descriptor of it."""

import signal

from kit import syscall

KIND = "killed"


def attack(canary):
    syscall("pidfd_send_signal", syscall("pidfd_open", canary["process"], 0), signal.SIGKILL, 0, 0)
