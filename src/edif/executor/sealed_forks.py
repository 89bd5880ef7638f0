"""What forks for sealed jobs need, and what the zygote does so that they take little: once, before the first of them.

Not sooner: it takes seconds, which are only worth spending where there is a fork for each job.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass

from edif.executor.holes import fill_holes
from edif.executor.huge_pages import collapse_heap, trim_heap
from edif.executor.job import LoadedModel
from edif.executor.rehearsing import Stage, rehearse_jobs
from edif.executor.warm_up import Rehearsals, rehearse
from edif.executor.working_set import WorkingSet
from edif.walls.cell import environment
from edif.walls.kernel import WithoutRights
from edif.walls.seccomp import Filter


@dataclass(frozen=True, slots=True)
class ForSealed:
    """
    Attributes:
        calls: the filter that closes them in.
        working_set: the pages that a job writes to.
        without_rights: a context of theirs.
    """

    calls: Filter
    working_set: WorkingSet
    without_rights: WithoutRights


def prepare(
    loaded: LoadedModel,
    rehearsals: Rehearsals,
    stage: Stage | None,
    settle: Callable[[], None],
    calls: Filter,
) -> ForSealed:
    """
    Args:
        stage: of jobs in company, if there are any.
        settle: what a fork does first.
        calls: the filter that closes them in.
    """

    def trial() -> None:
        settle()
        rehearse(loaded, rehearsals.whole)

    environment()  # and so it is known in every fork
    rehearse_jobs(loaded, rehearsals, stage)
    gc.collect()
    gc.freeze()
    trim_heap()
    fill_holes()
    collapse_heap()
    return ForSealed(calls, WorkingSet.learn(trial), WithoutRights())
