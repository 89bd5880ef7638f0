"""Writes false counts of visits where the driver tells them."""

import ctypes

from kit import company, seat_memory

KIND = "rows"


def attack(canary, rows):
    memory = seat_memory()
    at, size = (rows.data_ptr(), rows.nbytes) if memory is None else (memory[0], company()._region.start)
    ctypes.memset(at, 0x7F, size)
    return rows
