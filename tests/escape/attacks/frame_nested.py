"""Says a message to the agent that is nested without end."""

from kit import parent

KIND = "frames"


def attack(canary):
    parent().send(b"\x91" * 60_000 + canary["mark"].encode())
