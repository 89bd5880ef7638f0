"""Never ends, and never comes back from C."""

import ctypes

KIND = "endless"


def attack(canary):
    ctypes.CDLL(None).pause()
