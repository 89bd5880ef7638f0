"""Talks to the agent faster than it can listen, for as long as it is let."""

from kit import encode, parent

KIND = "frames"


def attack(canary):
    link = parent()
    link.send(encode(["Log", canary["mark"]]))
    frame = encode(["Saving"])
    while canary["flood"]:
        link.send(frame)
