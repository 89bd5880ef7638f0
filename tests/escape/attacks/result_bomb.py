"""Saves a value that is small only when it is compressed."""

KIND = "done"


def attack(canary):
    return bytes(canary["result_bytes"])
