"""Fills its folder with empty files."""

import os

KIND = "done"


def attack(canary):
    for number in range(canary["inodes"]):
        os.close(os.open(f"file-{number}", os.O_CREAT))
    return canary["done"]
