"""Kills the driver of shared passes, which has a number near its own."""

import os
import signal

KIND = "killed"


def attack(canary):
    os.kill(canary["driver"], signal.SIGKILL)
