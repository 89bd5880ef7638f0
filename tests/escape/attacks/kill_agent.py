"""Kills the agent."""

import os
import signal

KIND = "killed"


def attack(canary):
    os.kill(canary["agent"], signal.SIGKILL)
