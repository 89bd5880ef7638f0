"""In which order the waiting jobs of a model will begin, and when, if nothing else comes."""

from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from edif.core.ids import JobId
from edif.scheduler.shares import Shares


@dataclass(frozen=True, slots=True)
class ExpectedStart:
    """``in_s`` is in seconds from now; None while the model has no replica that takes jobs."""

    job: JobId
    in_s: float | None


def forecast(
    shares: Shares, now: float, free: int, remaining_s: Mapping[JobId, float], most: int
) -> list[ExpectedStart]:
    """The waiting jobs, next one first: the law itself, run on a copy with every job at its expected cost.

    Jobs that nothing lets begin are left out: those whose limit is used up by jobs on other models.

    Args:
        shares: the model's jobs; left as they are.
        now: monotonic seconds.
        free: slots that are free.
        remaining_s: expected seconds until the end of each running job whose slot then becomes free.
        most: how many are worked out.
    """
    trial = shares.copy()
    known = bool(free or remaining_s)
    free = free if known else 1  # the order can be told even so
    ends = [(in_s, job) for job, in_s in remaining_s.items()]
    heapify(ends)
    at = 0.0
    found: list[ExpectedStart] = []
    while len(found) < most:
        trial.age(now + at)
        job = trial.take() if free else None
        if job is not None:
            free -= 1
            found.append(ExpectedStart(job, at if known else None))
            heappush(ends, (at + trial.charged(job), job))
        elif ends and trial:
            at, job = heappop(ends)
            trial.end_as_expected(job)
            free += 1
        else:
            break
    return found
