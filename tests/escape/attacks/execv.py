"""Becomes another program."""

import os

KIND = "done"
EVIDENCE = "exited with code 77"


def attack(canary):
    os.execv("/bin/sh", ["sh", "-c", "exit 77"])
