"""Passes the agent more descriptors at once than it takes."""

import os
import socket

from kit import encode, parent

KIND = "frames"


def attack(canary):
    fd = os.open("/dev/null", os.O_RDONLY)
    socket.send_fds(parent(), [encode(["Log", canary["mark"]])], [fd] * 250)
