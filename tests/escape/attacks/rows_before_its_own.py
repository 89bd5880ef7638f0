"""Writes before and behind its rows, through their address."""

import ctypes

from kit import seat_memory

KIND = "rows"
BYTES = 256


def attack(canary, rows):
    # Where the pass is run by somebody else, its rows lie in memory that both see: to that one's edges, and not past them.
    low, high = seat_memory() or (
        rows.data_ptr(),
        rows.data_ptr() + rows[:1].numel() * rows.element_size() + BYTES,
    )
    for at in (low, high - BYTES):
        ctypes.memset(at, 0x41, BYTES)
    return rows
