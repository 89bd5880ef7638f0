"""Passes the driver descriptors by the hundred, in messages with and without sense."""

import os
import socket

from kit import encode, seat

KIND = "frames"


def attack(canary):
    link = seat()
    fd = os.open("/dev/null", os.O_RDONLY)
    for message in (canary["mark"].encode(), encode(["AloneOver"]), encode(["AskAlone"])):
        for _ in range(canary["frames"]):
            socket.send_fds(link, [message], [fd] * 4)
