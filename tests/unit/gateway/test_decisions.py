"""The file of the decision log: what a death or a full disk leaves of it."""

import os
import resource
from pathlib import Path

from edif.core.ids import JobId, ModelId
from edif.gateway.decisions import DecisionLog, Decisions
from edif.scheduler import events as ev
from edif.scheduler.journal import Header, Replay, replay

ONE = ModelId("m/one")
HEADER = Header((ONE,), "r")


def decide(path: Path, jobs: int) -> Decisions:
    decisions = Decisions(HEADER, DecisionLog(path))
    for number in range(jobs):
        decisions.handle(ev.JobQueued(JobId(f"j{number}"), ONE))
    return decisions


def replayed(path: Path) -> Replay:
    with path.open("rb") as lines:
        return replay(lines)


def test_gateways_one_after_the_other_add_to_one_log_even_after_a_death_in_the_middle_of_a_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "decisions"
    decide(path, 3)
    os.truncate(path, path.stat().st_size - 7)
    decide(path, 2)
    assert replayed(path) == Replay(parts=2, steps=2 + 2)
    assert path.stat().st_mode & 0o777 == 0o600, "it names people"


def test_full_disk_ends_the_log_and_not_the_decisions(tmp_path: Path) -> None:
    """Python ignores SIGXFSZ, so that a file at its limit is a write that fails, as on a full disk."""
    path = tmp_path / "decisions"
    decisions = decide(path, 3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
    try:
        told = decisions.handle(ev.JobQueued(JobId("late"), ONE))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert told == [ev.TellWaiting(JobId("late"), 4, loading=True)]
    assert decisions.handle(ev.CancelAsked(JobId("late")))
    assert replayed(path) == Replay(parts=1, steps=3)
