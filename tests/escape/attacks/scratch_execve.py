"""Becomes a program that it wrote into its own folder."""

import os
import sys
from pathlib import Path

KIND = "done"
EVIDENCE = "exited with code 77"


def attack(canary):
    Path("program").write_text("#!" + os.path.realpath(sys.executable) + "\nimport os; os._exit(77)\n")
    os.chmod("program", 0o700)
    os.execv("program", ["program"])
