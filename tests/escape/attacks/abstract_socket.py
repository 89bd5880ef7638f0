"""Connects to a unix socket that has no path."""

import socket

KIND = "sent"


def attack(canary):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.connect("\0" + canary["abstract"])
        link.sendall(canary["mark"].encode())
