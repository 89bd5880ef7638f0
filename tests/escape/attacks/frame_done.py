"""Says that it is done, with figures that no job has."""

from kit import parent, say

KIND = "frames"


def attack(canary):
    say(parent(), ["Done", float("nan"), float("inf"), -(2**63), 2**64 - 1])
    parent().send(canary["mark"].encode())
