"""Kills the gateway."""

import os
import signal

KIND = "killed"


def attack(canary):
    os.kill(canary["gateway"], signal.SIGKILL)
