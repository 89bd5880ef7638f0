"""Has another process run only when nothing else does."""

import os

KIND = "changed"


def attack(canary):
    os.sched_setscheduler(canary["process"], os.SCHED_IDLE, os.sched_param(0))
