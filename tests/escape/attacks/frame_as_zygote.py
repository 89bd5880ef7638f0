"""Says to the agent what only the zygote may say."""

from kit import parent, say

KIND = "frames"


def attack(canary):
    link = parent()
    say(link, ["ChildExited", canary["zygote"], 0])
    link.send(canary["mark"].encode())
