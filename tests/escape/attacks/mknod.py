"""Makes a device."""

import os
import stat

KIND = "done"


def attack(canary):
    os.mknod("device", 0o600 | stat.S_IFCHR, os.makedev(1, 1))
    return canary["done"]
