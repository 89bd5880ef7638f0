"""Passes the agent thousands of descriptors."""

import os
import socket

from kit import encode, parent

KIND = "frames"


def attack(canary):
    link = parent()
    fd = os.open("/dev/null", os.O_RDONLY)
    message = encode(["Log", canary["mark"]])
    for _ in range(canary["frames"]):
        socket.send_fds(link, [message], [fd] * 4)
