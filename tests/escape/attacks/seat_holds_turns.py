"""Asks again and again to run a pass by itself, and never says that it is over."""

from kit import encode, seat

KIND = "frames"


def attack(canary):
    link = seat()
    link.send(canary["mark"].encode())
    for _ in range(canary["frames"]):
        link.send(encode(["AskAlone"]))
        link.send(encode(["AloneOver"]))
        link.send(encode(["AskAlone"]))
