"""Gives the pages of the memory that it shares with the driver back, again and again, while the driver uses them."""

import ctypes
import threading

from kit import keeping_memory, kept_memory

KIND = "rows"
PUNCH_HOLE, KEEP_SIZE = 2, 1
pack = keeping_memory


def attack(canary, rows):
    fd = kept_memory()
    libc = ctypes.CDLL(None, use_errno=True)
    size = ctypes.c_long(1 << 20)

    def punch():
        for _ in range(2_000):
            libc.fallocate(fd, PUNCH_HOLE | KEEP_SIZE, ctypes.c_long(0), size)

    threading.Thread(target=punch, daemon=True).start()
    rows.zero_()
    return rows
