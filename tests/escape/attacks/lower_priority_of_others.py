"""Gives another process the lowest priority."""

import os

KIND = "changed"


def attack(canary):
    os.setpriority(os.PRIO_PROCESS, canary["process"], 19)
