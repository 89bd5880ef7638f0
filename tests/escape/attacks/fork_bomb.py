"""Makes children without end."""

import os
import time

KIND = "done"
BARE = "namespace"


def attack(canary):
    for _ in range(canary["forks"]):
        if os.fork() == 0:
            time.sleep(5)
            os._exit(0)
    return canary["done"]
