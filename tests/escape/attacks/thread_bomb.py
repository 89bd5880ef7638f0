"""Makes threads without end."""

import threading

KIND = "done"


def attack(canary):
    threading.stack_size(64 * 1024)
    gate = threading.Event()
    threads = [threading.Thread(target=gate.wait, daemon=True) for _ in range(canary["threads"])]
    try:
        for thread in threads:
            thread.start()
    finally:
        gate.set()
    return canary["done"]
