"""Sends from one half of a socket pair to a unix socket by its path."""

import socket

KIND = "sent"


def attack(canary):
    ours, _theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.sendto(canary["mark"].encode(), canary["unix_datagram"])
