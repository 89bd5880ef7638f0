"""Runs another program."""

import subprocess

KIND = "done"


def attack(canary):
    return subprocess.run(
        ["/bin/sh", "-c", f"echo done-$((20+1))-{canary['mark']}"], capture_output=True, text=True, check=True
    ).stdout
