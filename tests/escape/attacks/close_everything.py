"""Closes all descriptors of its process, the socket to the agent too."""

import os

KIND = "ended"


def attack(canary):
    os.closerange(0, 4096)
    os._exit(4)
