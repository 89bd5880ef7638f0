"""Kills its process group, which is the replica's."""

import os
import signal

KIND = "killed"
BARE = "group"


def attack(canary):
    os.killpg(0, signal.SIGKILL)
