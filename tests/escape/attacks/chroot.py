"""Takes another root folder."""

import os

KIND = "done"
BARE = "namespace"


def attack(canary):
    os.chroot(".")
    return canary["done"]
