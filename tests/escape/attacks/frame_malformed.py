"""Says something to the agent that is no message."""

from kit import parent

KIND = "frames"


def attack(canary):
    parent().send(b"\xff\xfe" + canary["mark"].encode())
