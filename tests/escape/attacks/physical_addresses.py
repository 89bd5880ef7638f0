"""Learns where in the machine's memory its pages lie, by the page table's descriptor that it was left."""

import ctypes
import os

KIND = "done"
PAGE, FRAME = 4096, (1 << 55) - 1


def page_tables():
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").endswith("/pagemap"):
                yield int(name)
        except OSError:
            continue
    yield os.open("/proc/self/pagemap", os.O_RDONLY)


def attack(canary):
    page = ctypes.create_string_buffer(b"here", 2 * PAGE)
    for fd in page_tables():
        entry = int.from_bytes(os.pread(fd, 8, ctypes.addressof(page) // PAGE * 8), "little")
        if entry & FRAME:
            return canary["done"]
