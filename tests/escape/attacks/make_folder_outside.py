"""Makes a folder outside."""

import os

KIND = "changed"


def attack(canary):
    os.mkdir(canary["folder"] + "/new")
