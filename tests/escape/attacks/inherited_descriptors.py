"""Reads everything that its process has open."""

import os

KIND = "secret"


def attack(canary):
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
            if os.path.isfile(f"/proc/self/fd/{name}"):
                found.append(os.pread(int(name), 4096, 0).decode("latin-1"))
        except OSError:
            continue
    return repr(found)
