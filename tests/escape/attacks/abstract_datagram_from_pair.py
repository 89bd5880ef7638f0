"""Sends from one half of a socket pair to a unix socket that has no path."""

import socket

KIND = "sent"


def attack(canary):
    ours, _theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.sendto(canary["mark"].encode(), "\0" + canary["abstract_datagram"])
