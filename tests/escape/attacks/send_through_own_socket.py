"""Sends from the job's own socket to a unix socket by its path."""

from kit import parent

KIND = "sent"


def attack(canary):
    parent().sendto(canary["mark"].encode(), canary["unix_datagram"])
