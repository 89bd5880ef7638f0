"""Lists the scratch folders of other jobs."""

import os
from pathlib import Path

KIND = "done"


def attack(canary):
    others = set(os.listdir("..")) - {Path.cwd().name}
    assert others
    return canary["done"]
