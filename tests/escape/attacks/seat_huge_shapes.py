"""Asks for a pass of shapes that no memory holds."""

from kit import encode, join, seat

KIND = "frames"


def attack(canary):
    link = seat()
    for rows, tokens in ((1 << 16, 1 << 20), (1 << 16, 1), (1, 1 << 20), (4096, 4096)):
        link.send(encode(join(rows, tokens, bytes(48))))
    link.send(encode(join(16, 300)))  # this one it could say truly: past the positions of a small model
    link.send(canary["mark"].encode())
