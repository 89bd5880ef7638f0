"""Says that it failed, with a code and a text of its own."""

from kit import parent, say

KIND = "frames"


def attack(canary):
    say(parent(), ["Failed", "\0\x1b[2J" * 100, "sentence \ud7ff\0", "<script>", 0.1, 1, 1])
    parent().send(canary["mark"].encode())
