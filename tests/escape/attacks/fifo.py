"""Writes into a named pipe outside."""

import os

KIND = "sent"


def attack(canary):
    fd = os.open(canary["fifo"], os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, canary["mark"].encode())
