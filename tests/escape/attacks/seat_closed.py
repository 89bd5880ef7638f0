"""Hangs up in the middle of a pass."""

import socket

from kit import seat

KIND = "frames"


def attack(canary):
    link = seat()
    link.send(canary["mark"].encode())
    link.shutdown(socket.SHUT_RDWR)
