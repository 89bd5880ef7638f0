"""Says to the driver what only the driver says."""

from kit import encode, seat

KIND = "frames"


def attack(canary):
    link = seat()
    link.send(canary["mark"].encode())
    link.send(encode(["Over", True, canary["mark"], 1]))
    link.send(encode(["Shared", 1, 2, 1, 0.1, 0.1]))
    link.send(encode(["Memory", 0, 4096]))
