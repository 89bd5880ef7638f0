"""Says something to the driver that is nested so deeply that decoding it takes the stack."""

from kit import seat

KIND = "frames"


def attack(canary):
    link = seat()
    link.send(canary["mark"].encode())
    link.send(b"\x91" * 60_000)
