"""Asks for a pass on token ids that the model does not have, in company."""

import struct

from kit import encode, join, seat

KIND = "frames"


def attack(canary):
    link = seat()
    link.send(canary["mark"].encode())
    for wrong in (-1, 10**9, 2**62, -(2**63)):
        link.send(encode(join(ids=struct.pack("6q", 1, 2, 3, wrong, 5, 6), wants=[[0, 0]])))
