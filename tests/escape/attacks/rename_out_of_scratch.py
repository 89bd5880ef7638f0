"""Moves a file of its own to a place outside."""

import os
from pathlib import Path

KIND = "changed"


def attack(canary):
    Path("mine").write_text("mine")
    os.rename("mine", canary["folder"] + "/mine")
