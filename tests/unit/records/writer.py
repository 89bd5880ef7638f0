"""A process that writes and tells of each write after the call has returned, until it is killed.

``python -m tests.unit.records.writer URL FOLDER ROUND``
"""

import asyncio
import sys
from pathlib import Path

from edif.core.ids import JobId, UserName
from edif.core.job import AttemptOutcome, Ending, JobState
from edif.core.users import ApiKey, Role, User
from edif.records.migrate import open_store
from tests.unit.records.factories import a_job, an_attempt


def tell(*facts: object) -> None:
    print(*facts, flush=True)


async def _main(url: str, folder: Path, round_: str) -> None:
    store = await open_store(folder, url)
    number = 0
    while True:
        number += 1
        label = f"{round_}x{number}"
        job = a_job(id=JobId(f"j{label}"))
        await store.add_job(job)
        tell("job", job.id, "queued")
        await store.begin_attempt(an_attempt(job.id))
        tell("job", job.id, "running")
        await store.lose_attempt(job.id, 1)
        tell("job", job.id, "queued-again")
        await store.begin_attempt(an_attempt(job.id, 2))
        tell("job", job.id, "running-again")
        ending = Ending(JobState.COMPLETED, "Done.")
        await store.end_job(job.id, ending, now=1.0, attempt=2, outcome=AttemptOutcome.COMPLETED)
        tell("job", job.id, "completed")
        user = UserName(f"u{label}")
        await store.add_user(User(user, Role.RESEARCHER, 1.0))
        tell("user", user, "added")
        await store.add_key(ApiKey(f"k{label}"[:20], user, f"d{label}", 1.0))
        tell("key", f"k{label}"[:20], "added")
        await store.revoke_key(f"k{label}"[:20], 2.0)
        tell("key", f"k{label}"[:20], "revoked")
        await store.mark_blobs_deleted([job])
        tell("blobs", job.id, "deleted")


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
