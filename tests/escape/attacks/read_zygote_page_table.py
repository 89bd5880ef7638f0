"""Reads the page table of the zygote."""

import os

KIND = "done"


def attack(canary):
    if len(os.pread(os.open(f"/proc/{canary['zygote']}/pagemap", os.O_RDONLY), 8, 0)) == 8:
        return canary["done"]
