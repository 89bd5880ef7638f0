"""Asks for a pass with a mask and positions that no tokenizer makes."""

import struct

from kit import encode, join, seat

KIND = "frames"


def attack(canary):
    link = seat()
    link.send(canary["mark"].encode())
    for mask, positions in (((7,) * 6, ()), ((), (10**6,) * 6), ((-1,) * 6, (-1,) * 6), ((0,) * 6, (0,) * 6)):
        asked = join(wants=[[0, 0]])
        asked[5:7] = (struct.pack(f"{len(each)}q", *each) for each in (mask, positions))
        link.send(encode(asked))
