"""Says more to the driver in one message than the protocol allows."""

from kit import encode, join, seat

KIND = "frames"


def attack(canary):
    link = seat()
    link.send(canary["mark"].encode())
    link.send(encode(join(ids=bytes(180_000))))
