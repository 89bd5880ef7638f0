"""Says many times that it is spoiled, at length: the agent writes that down."""

from kit import parent, say

KIND = "frames"


def attack(canary):
    link = parent()
    for _ in range(canary["frames"]):
        say(link, ["Tainted", canary["mark"] * 600])
