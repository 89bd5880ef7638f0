"""Reads a secret while its payload is unpickled, before its block is run."""

KIND = "secret"


class Luggage:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return eval, (f"open({self.path!r}).read()",)


def pack(canary):
    return {**canary, "luggage": Luggage(canary["file"])}


def attack(canary):
    return canary["luggage"]
