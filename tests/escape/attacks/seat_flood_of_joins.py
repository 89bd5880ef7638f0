"""Asks for shared passes without end, and takes part in none."""

from kit import encode, join, seat

KIND = "frames"


def attack(canary):
    link = seat()
    link.send(canary["mark"].encode())
    asked = encode(join(wants=[[0, 0]], watched=range(8)))
    while canary["flood"]:
        link.send(asked)
