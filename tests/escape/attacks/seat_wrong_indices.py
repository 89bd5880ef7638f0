"""Has the driver write back leaves that it was never shown."""

from kit import encode, seat

KIND = "frames"


def attack(canary):
    link = seat()
    for edited, replaced in (
        ([1], []),
        ([2**31 - 1], []),
        ([], [77]),
        ([0] * 1024, [0] * 1024),
        ([0], [1_000]),
    ):
        link.send(encode(["Answer", edited, replaced, [], False]))
    link.send(encode(["Answer", [0], [0], [[0, 0], [2**31 - 1, 2**31 - 1]], False]))
    link.send(canary["mark"].encode())
