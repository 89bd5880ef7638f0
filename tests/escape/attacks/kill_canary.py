"""Kills a process of the same account."""

import os
import signal

KIND = "killed"


def attack(canary):
    os.kill(canary["process"], signal.SIGKILL)
