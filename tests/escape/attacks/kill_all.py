"""Kills every process that it may."""

import os
import signal

KIND = "killed"
BARE = "namespace"


def attack(canary):
    os.kill(-1, signal.SIGKILL)
