"""Maps the memory that it shares with the driver so that it can be executed, and writes code to it."""

import mmap

from kit import keeping_memory, kept_memory, seat

KIND = "frames"
pack = keeping_memory


def attack(canary):
    with mmap.mmap(kept_memory(), 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page[:4096] = b"\xc3" * 4096
    seat().send(canary["mark"].encode())
