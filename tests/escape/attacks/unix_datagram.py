"""Sends a datagram to a unix socket by its path."""

import socket

KIND = "sent"


def attack(canary):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.sendto(canary["mark"].encode(), canary["unix_datagram"])
