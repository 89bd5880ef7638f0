"""Truncates a file outside by opening it neither for reading nor for writing."""

import os

KIND = "changed"


def attack(canary):
    os.open(canary["file"], os.O_ACCMODE | os.O_TRUNC)
