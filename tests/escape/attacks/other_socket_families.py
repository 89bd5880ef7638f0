"""Makes a pair of sockets of a family with a protocol of its own."""

import socket

KIND = "done"


def attack(canary):
    socket.socketpair(30, socket.SOCK_SEQPACKET)  # AF_TIPC
    return canary["done"]
