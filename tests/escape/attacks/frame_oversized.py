"""Says a message to the agent that is larger than any may be."""

from kit import parent

KIND = "frames"


def attack(canary):
    parent().send(canary["mark"].encode() + bytes(100_000))
