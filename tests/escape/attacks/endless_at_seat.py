"""Takes the part in a pass that it was given, and never answers."""

import time

from kit import encode, join, seat

KIND = "endless"


def attack(canary):
    link = seat()
    link.send(encode(join(wants=[[place, 0] for place in range(64)])))
    while True:
        time.sleep(1)
