"""What a call has returned from, a killed process leaves behind: real processes, really killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from edif.core.ids import JobId, UserName
from edif.core.job import AttemptOutcome
from edif.records.store import RecordStore
from tests.sizes import SIZES
from tests.unit.records.factories import StoreFactory

ROOT = Path(__file__).resolve().parents[3]
STAGES = ["queued", "running", "queued-again", "running-again", "completed"]


def write_and_be_killed(
    factory: StoreFactory, folder: Path, round_: int, after: int
) -> list[tuple[str, ...]]:
    """What the writer has told before it was killed, some time after its so-manieth word."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.records.writer", factory.url_of(folder), str(folder), str(round_)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        told = []
        for _ in range(after):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            told.append(line)
        os.kill(process.pid, signal.SIGKILL)
        told += process.stdout.readlines()  # what it still said on its way
        assert process.wait() == -signal.SIGKILL
    return [tuple(line.split()) for line in told if line.endswith("\n")]


async def check(store: RecordStore, told: list[tuple[str, ...]]) -> None:
    """Every fact that was told is there, or one that came after it."""
    last = {(kind, name): fact for kind, name, fact in told}
    for (kind, name), fact in last.items():
        if kind == "job":
            await check_job(store, JobId(name), fact)
        elif kind == "user":
            assert await store.user(UserName(name)) is not None
        elif kind == "key":
            key = await store.key_by_id(name)
            assert key is not None
            assert fact == "added" or key.revoked_at == 2.0
        else:
            expired = await store.expired_blobs(99.0, limit=10_000)
            assert name not in {job.id for job in expired}


async def check_job(store: RecordStore, job_id: JobId, fact: str) -> None:
    job = await store.job(job_id)
    assert job is not None, f"{job_id} is lost"
    attempts = await store.attempts(job_id)
    outcomes = [attempt.outcome for attempt in attempts]
    stage = {
        ("queued", 0): "queued",
        ("running", 1): "running",
        ("queued", 1): "queued-again",
        ("running", 2): "running-again",
        ("completed", 2): "completed",
    }[job.state.value, job.attempts]
    assert STAGES.index(stage) >= STAGES.index(fact), f"{job_id} was {fact} and is {stage}"
    assert STAGES.index(stage) <= STAGES.index(fact) + 1, "more is recorded than was done"
    # Job and attempts were changed together or not at all.
    assert (
        outcomes
        == {
            "queued": [],
            "running": [None],
            "queued-again": [AttemptOutcome.LOST],
            "running-again": [AttemptOutcome.LOST, None],
            "completed": [AttemptOutcome.LOST, AttemptOutcome.COMPLETED],
        }[stage]
    )


async def test_everything_a_killed_process_was_told_is_written_is_there(
    factory: StoreFactory, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    told: list[tuple[str, ...]] = []
    for round_ in range(SIZES.kills):
        told += write_and_be_killed(factory, folder, round_, after=1 + 7 * round_)
        store = await factory.open(folder)
        try:
            await check(store, told)
        finally:
            await store.close()
