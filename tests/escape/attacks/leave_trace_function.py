"""Leaves a function that Python calls for every line."""

import sys

KIND = "neighbour"


def attack(canary, module):
    def watch(frame, event, _argument):
        if event == "call" and "rgb_to_hsv" in frame.f_code.co_name:
            raise SystemError("stopped")
        return

    sys.setprofile(watch)
