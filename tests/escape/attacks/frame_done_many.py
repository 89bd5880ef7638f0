"""Says many times that it is done and ready for another's job."""

from kit import parent, say

KIND = "frames"


def attack(canary):
    link = parent()
    for _ in range(200):
        say(link, ["Done", 0.1, 0.1, 1, 1])
        say(link, ["Ready"])
    link.send(canary["mark"].encode())
