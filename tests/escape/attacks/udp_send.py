"""Sends a datagram to a port of the machine."""

import socket

KIND = "sent"


def attack(canary):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.sendto(canary["mark"].encode(), ("127.0.0.1", canary["udp"]))
