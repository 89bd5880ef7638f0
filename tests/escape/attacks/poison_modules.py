"""Puts another module into the place of one of the standard library."""

import sys
import types

KIND = "neighbour"


def attack(canary, module):
    evil = types.ModuleType("colorsys")
    evil.rgb_to_hsv = lambda *_: (6, 6, 6)
    evil.__file__ = "evil"
    sys.modules["colorsys"] = evil
