"""Opens a raw socket."""

import socket

KIND = "done"
BARE = "namespace"


def attack(canary):
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return canary["done"]
