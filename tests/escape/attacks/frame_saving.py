"""Says thousands of times that it is saving."""

from kit import parent, say

KIND = "frames"


def attack(canary):
    link = parent()
    for _ in range(canary["frames"]):
        say(link, ["Saving"])
    link.send(canary["mark"].encode())
