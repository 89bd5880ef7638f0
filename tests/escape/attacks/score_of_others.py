"""Marks another process as the first to die when memory runs out."""

from pathlib import Path

KIND = "changed"


def attack(canary):
    Path(f"/proc/{canary['process']}/oom_score_adj").write_text("1000")
