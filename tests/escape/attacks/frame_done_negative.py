"""Says that it is done, with figures below zero."""

from kit import parent, say

KIND = "frames"


def attack(canary):
    say(parent(), ["Done", -1e308, -1.0, -1, -1])
    parent().send(canary["mark"].encode())
