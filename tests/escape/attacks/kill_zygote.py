"""Kills the zygote."""

import os
import signal

KIND = "killed"


def attack(canary):
    os.kill(canary["zygote"], signal.SIGKILL)
