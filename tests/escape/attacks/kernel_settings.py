"""Changes a setting of the kernel."""

import os

KIND = "done"


def attack(canary):
    os.close(os.open("/proc/sys/kernel/domainname", os.O_WRONLY))
    return canary["done"]
