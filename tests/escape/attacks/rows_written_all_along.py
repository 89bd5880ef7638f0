"""Writes to the memory that it shares with the driver while the driver reads, writes and goes on."""

import ctypes
import threading
import time

from kit import seat_memory

KIND = "rows"


def attack(canary, rows):
    low, high = seat_memory() or (rows.data_ptr(), rows.data_ptr() + rows.numel() * rows.element_size())

    def write(held=rows):
        for number in range(10_000):
            ctypes.memset(low, number % 256, min(high - low, 2**20))

    threading.Thread(target=write, daemon=True).start()
    time.sleep(0.02)
    return rows * 2
