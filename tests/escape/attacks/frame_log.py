"""Prints past the limit of text, by saying so to the agent itself."""

from kit import parent, say

KIND = "frames"
EVIDENCE = "printed it all"


def attack(canary):
    link = parent()
    for _ in range(canary["frames"]):
        say(link, ["Log", canary["mark"] * 600])
