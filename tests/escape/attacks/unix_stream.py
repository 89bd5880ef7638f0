"""Connects to a unix socket by its path."""

import socket

KIND = "sent"


def attack(canary):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.connect(canary["unix_stream"])
        link.sendall(canary["mark"].encode())
