"""Gives a file outside another group."""

import os

KIND = "changed"


def attack(canary):
    os.chown(canary["file"], -1, canary["group"])
