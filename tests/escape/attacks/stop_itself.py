"""Stops its own process, so that it hears nothing any more."""

import os
import signal

KIND = "endless"


def attack(canary):
    os.kill(os.getpid(), signal.SIGSTOP)
