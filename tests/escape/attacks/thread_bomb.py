"""Makes threads without end."""

import _thread
import threading
import time

KIND = "done"


def attack(canary):
    threading.stack_size(64 * 1024)
    gate = threading.Event()
    running = []

    def stay():
        running.append(None)
        gate.wait()

    try:
        for _ in range(canary["threads"]):
            _thread.start_new_thread(stay, ())
        time.sleep(0.1)
        assert len(running) == canary["threads"]
    finally:
        gate.set()
    return canary["done"]
