"""Opens files without end: each of its threads takes a table of descriptors of its own."""

import os
import threading

from kit import syscall

KIND = "done"
UNSHARE = 2


def attack(canary):
    opened = []

    def fill():
        syscall("close_range", 1 << 20, 1 << 21, UNSHARE)
        for _ in range(canary["descriptors"] // 4):
            opened.append(os.open("/dev/null", os.O_RDONLY))

    threads = [threading.Thread(target=fill) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return canary["done"] if len(opened) >= canary["descriptors"] else None
