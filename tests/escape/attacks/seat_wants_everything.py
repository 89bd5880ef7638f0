"""Waits for thousands of visits at once, most of which there never will be."""

from kit import encode, join, seat

KIND = "frames"


def attack(canary):
    link = seat()
    link.send(canary["mark"].encode())
    wants = [[place, time] for place in range(64) for time in range(64)]
    link.send(encode(["Answer", [], [], wants, False]))
    link.send(encode(["Answer", [], [], [[2**31 - 1, 2**31 - 1]] * 4096, False]))
    link.send(encode(join(wants=wants, watched=[0] * 30_000)))
    link.send(encode(join(wants=wants, watched=[2**31 - 1] * 500)))
