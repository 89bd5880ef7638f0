"""Looks for secrets in the environment that it inherited."""

import os

KIND = "secret"


def attack(canary):
    return repr(dict(os.environ))
