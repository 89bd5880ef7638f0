"""Has more signals wait for it than its share of what the account may have waiting."""

import os
import signal
from pathlib import Path

KIND = "done"


def attack(canary):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMAX])
    for _ in range(canary["signals"]):
        os.kill(os.getpid(), signal.SIGRTMAX)
    lines = Path("/proc/self/status").read_text().splitlines()
    waiting = next(line.split()[1] for line in lines if line.startswith("SigQ:"))
    assert int(waiting.split("/")[0]) >= canary["signals"], waiting
    return canary["done"]
