"""Reads the fabric's records."""

from pathlib import Path

KIND = "secret"
EVIDENCE = "SQLite format 3"


def attack(canary):
    return (Path(canary["data"]) / "records.sqlite").read_bytes()[:4096].decode("latin-1")
