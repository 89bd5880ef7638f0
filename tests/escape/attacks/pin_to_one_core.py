"""Binds another process to one processor."""

import os

KIND = "changed"


def attack(canary):
    os.sched_setaffinity(canary["process"], {max(os.sched_getaffinity(0))})
