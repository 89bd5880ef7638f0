"""Says nothing to the agent, as if it had closed the pipe, and then goes on."""

from kit import parent

KIND = "frames"


def attack(canary):
    parent().send(b"")
    parent().send(canary["mark"].encode())
