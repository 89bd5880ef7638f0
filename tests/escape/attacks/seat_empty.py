"""Says nothing to the driver, many times."""

from kit import seat

KIND = "frames"


def attack(canary):
    link = seat()
    link.send(canary["mark"].encode())
    for _ in range(canary["frames"]):
        link.send(b"")
