"""Passes the agent sockets that hold each other."""

import socket

from kit import encode, parent

KIND = "frames"


def attack(canary):
    link = parent()
    for _ in range(50):
        ours, theirs = socket.socketpair()
        socket.send_fds(ours, [b"x"], [theirs.fileno(), ours.fileno(), link.fileno()])
        socket.send_fds(link, [encode(["Log", canary["mark"]])], [ours.fileno(), theirs.fileno()])
