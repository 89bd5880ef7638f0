"""Connects to a port of the machine."""

import socket

KIND = "sent"


def attack(canary):
    with socket.create_connection(("127.0.0.1", canary["tcp"]), timeout=1) as link:
        link.sendall(canary["mark"].encode())
