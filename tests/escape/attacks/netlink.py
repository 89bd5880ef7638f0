"""Asks the kernel about the machine's network."""

import socket

KIND = "done"


def attack(canary):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.bind((0, 0))
    return canary["done"]
