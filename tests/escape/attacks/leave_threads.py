"""Leaves a thread that edits a weight again and again."""

import threading
import time

KIND = "neighbour"


def attack(canary, module):
    def edit():
        while True:
            module.lm_head.weight.data.add_(1.0)
            time.sleep(0.001)

    threading.Thread(target=edit, daemon=True).start()
    time.sleep(0.05)
