"""Has the driver count leaves from the other end."""

from kit import encode, seat

KIND = "frames"


def attack(canary):
    link = seat()
    link.send(encode(["Answer", [-1], [-1], [[-1, -1]], False]))
    link.send(canary["mark"].encode())
