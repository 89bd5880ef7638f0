"""Leaves a function that is called when its process ends."""

import atexit
import socket

KIND = "sent"
BARE = "exit"


def attack(canary):
    def late():
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            link.sendto(canary["mark"].encode(), canary["unix_datagram"])

    atexit.register(late)
