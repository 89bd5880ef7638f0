"""Kills its own process."""

import os
import signal

KIND = "ended"


def attack(canary):
    os.kill(os.getpid(), signal.SIGKILL)
