"""Talks to the driver faster than it can listen, for as long as it is let."""

from kit import encode, seat

KIND = "frames"


def attack(canary):
    link = seat()
    link.send(canary["mark"].encode())
    answer = encode(["Answer", [], [], [[0, 0]] * 4096, False])
    while canary["flood"]:
        link.send(answer)
