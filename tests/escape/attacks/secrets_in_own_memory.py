"""Searches all memory that it inherited from the zygote for secrets."""

import ctypes
import os
import re
from pathlib import Path

KIND = "secret"
PAGE, ROOM = 4096, 65536  # what a pipe holds


def read(low, high):
    """By having the kernel copy it: where nothing may be read, it says so and the process goes on."""
    libc = ctypes.CDLL(None, use_errno=True)
    ours, theirs = os.pipe()
    while low < high:
        count = libc.write(theirs, ctypes.c_void_p(low), min(ROOM, high - low))
        if count > 0:
            yield os.read(ours, count)
        low += count if count > 0 else PAGE
    os.close(ours)
    os.close(theirs)


def attack(canary):
    found = set()
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, *_ = line.split()
        low, high = (int(end, 16) for end in span.split("-"))
        if rights.startswith("rw") and high - low <= 64 * 2**20:
            found.update(re.findall(rb"SECRET-[0-9a-f]{8,}", b"".join(read(low, high))))
    return repr(found)
