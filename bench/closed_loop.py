"""A closed loop of clients on one replica, without a fabric: each sends its next job when it has heard of the last one's end."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from tests.support.programs.serving import Outcome

from bench.tables import quantile

Run = Callable[[int], Awaitable[Outcome]]
"""Runs one job; it is given the job's number, from 0 on."""


@dataclass(frozen=True, slots=True)
class Finished:
    """One job. Times are seconds of the same clock; ``cpu_s`` is what this process had used of a processor when it ended."""

    outcome: Outcome
    began: float
    ended: float
    cpu_s: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True)
class Window:
    """The jobs that ended one after the other while all clients were busy.

    Attributes:
        jobs: in the order of their ends.
        seconds: from the end of the job before them to that of the last.
        cpu_s: what the load generator, this process, used of a processor meanwhile.
    """

    jobs: Sequence[Finished]
    seconds: float
    cpu_s: float

    @classmethod
    def after(cls, warm_up: int, finished: Sequence[Finished]) -> "Window":
        """
        Args:
            warm_up: so many jobs, one at least, are left out.
            finished: in the order of their ends, more than that.
        """
        before, last = finished[warm_up - 1], finished[-1]
        return cls(finished[warm_up:], last.ended - before.ended, last.cpu_s - before.cpu_s)

    @property
    def jobs_per_second(self) -> float:
        return len(self.jobs) / self.seconds

    @property
    def cpu_per_job_s(self) -> float:
        return self.cpu_s / len(self.jobs)

    @cached_property
    def passes(self) -> list[tuple[int, float]]:
        """Rows and seconds of each shared pass. Each of its jobs tells of it in the same words."""
        return sorted({(each.rows, each.seconds) for job in self.jobs for each in job.outcome.shared})

    @property
    def rows_per_pass(self) -> float | None:
        """The mean of the shared passes; None if there was none."""
        return sum(rows for rows, _ in self.passes) / len(self.passes) if self.passes else None

    @property
    def in_company(self) -> float:
        """The part of the jobs that shared a pass."""
        return sum(each.outcome.in_company for each in self.jobs) / len(self.jobs)

    @property
    def again(self) -> Counter[str]:
        """How many jobs were run again, alone, by the reason."""
        return Counter(each.outcome.why_alone for each in self.jobs if each.outcome.why_alone)

    def time_in_replica(self, q: float) -> float:
        return quantile([each.seconds for each in self.jobs], q)


async def keep_busy(run: Run, clients: int, jobs: int) -> Window:
    """Have so many clients send jobs, and return what was seen of ``jobs`` of them once each client has had an answer or so.

    Clients send on until the last of those has ended, so that all of them ran in full company.

    Raises:
        RuntimeError: a job came to no result.
    """
    wanted = clients + jobs
    finished: list[Finished] = []
    numbers = iter(range(wanted + clients))

    async def one_client() -> None:
        while len(finished) < wanted:
            began = time.monotonic()
            outcome = await run(next(numbers))
            if outcome.result is None:
                raise RuntimeError(f"a job failed: {outcome.code}: {outcome.sentence}")
            finished.append(Finished(outcome, began, time.monotonic(), time.process_time()))

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(one_client())
    return Window.after(clients, finished[:wanted])
