"""Prints without end."""

KIND = "done"
EVIDENCE = "printed it all"


def attack(canary):
    line = "flood" * 20
    for _ in range(canary["print_bytes"] // 100):
        print(line)
