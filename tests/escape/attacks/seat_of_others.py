"""Answers for whoever it can reach: at every descriptor that might be somebody else's seat."""

import os
import socket

from kit import company, encode, parent, seat

KIND = "frames"


def attack(canary):
    own = set()
    if company() is not None:
        for link in (parent(), seat()):
            own.add(os.fstat(link.fileno()).st_ino)
    for fd in range(4096):
        try:
            link = socket.socket(fileno=fd)
        except OSError:
            continue
        try:
            if link.type == socket.SOCK_SEQPACKET and os.fstat(fd).st_ino not in own:
                link.send(encode(["Answer", [0], [], [], True]))
                link.send(canary["mark"].encode())
        except OSError:
            pass
        finally:
            link.detach()
