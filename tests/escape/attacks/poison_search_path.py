"""Puts a folder of its own first where modules are looked for."""

import os
import sys
from pathlib import Path

KIND = "neighbour"


def attack(canary, module):
    Path("colorsys.py").write_text("def rgb_to_hsv(*_): return (9, 9, 9)\n")
    sys.path.insert(0, os.getcwd())
    sys.modules.pop("colorsys", None)
    sys.path_importer_cache.clear()
