"""Has the dynamic loader run a program that may be read but not run."""

import glob
import os

KIND = "done"
EVIDENCE = "exited with code 77"


def attack(canary):
    loader = next(path for path in glob.glob("/lib*/ld-linux*") + glob.glob("/lib/*/ld-linux*"))
    os.execv(loader, [loader, "/bin/sh", "-c", "exit 77"])
