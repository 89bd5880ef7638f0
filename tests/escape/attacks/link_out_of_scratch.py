"""Makes a link outside to a file of its own."""

import os

KIND = "changed"


def attack(canary):
    os.symlink("/etc", canary["folder"] + "/link")
