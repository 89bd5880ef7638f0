"""Sets the limits of another process."""

import resource

KIND = "changed"


def attack(canary):
    resource.prlimit(canary["process"], resource.RLIMIT_NOFILE, (3, 3))
