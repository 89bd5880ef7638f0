"""Sets an extended attribute of a file outside."""

import os

KIND = "changed"


def attack(canary):
    os.setxattr(canary["file"], "user.escape", b"1")
