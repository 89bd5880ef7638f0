"""Attaches to the zygote as a debugger."""

import os

from kit import syscall

KIND = "done"


PTRACE_ATTACH, PTRACE_DETACH = 16, 17


def attack(canary):
    syscall("ptrace", PTRACE_ATTACH, canary["zygote"], 0, 0)
    os.waitpid(canary["zygote"], 0x40000000)  # __WALL
    syscall("ptrace", PTRACE_DETACH, canary["zygote"], 0, 0)
    return canary["done"]
