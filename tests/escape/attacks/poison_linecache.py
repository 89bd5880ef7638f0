"""Puts other source lines under a file's name."""

import linecache

KIND = "neighbour"


def attack(canary, module):
    import textwrap

    linecache.cache[textwrap.__file__] = (4, None, ["evil\n"], textwrap.__file__)
