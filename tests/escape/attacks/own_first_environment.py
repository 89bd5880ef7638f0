"""Looks for secrets in the environment that its process began with."""

from pathlib import Path

KIND = "secret"


def attack(canary):
    return Path("/proc/self/environ").read_text()
