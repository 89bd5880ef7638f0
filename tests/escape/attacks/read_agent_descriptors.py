"""Looks at what the agent has open."""

import os

KIND = "secret"
EVIDENCE = "/dev/null"


def attack(canary):
    return " ".join(
        os.readlink(f"/proc/{canary['agent']}/fd/{fd}") for fd in os.listdir(f"/proc/{canary['agent']}/fd")
    )
