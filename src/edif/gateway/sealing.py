"""Whose jobs are closed in on which model, what they may use, which of them are merged, and how many run at once."""

from edif.core.ids import ANONYMOUS, UserName
from edif.core.job import Job
from edif.core.limits import MIB, Isolation, Limits
from edif.models.catalogue import Deployment
from edif.wire.link import CellLimits

_CORES = 256  # more than a node has: wall time is the limit that bites first


class Sealing:
    """
    Args:
        limits: the bounds of every job.

    Attributes:
        any_user: whether the fabric has users; from then on ``auto`` means sealed.
    """

    def __init__(self, limits: Limits) -> None:
        self.any_user = False
        self._cell = CellLimits(
            memory_bytes=limits.memory_bytes,
            scratch_bytes=limits.scratch_bytes,
            # What is written is the result, framed, or something in the scratch folder.
            file_bytes=max(limits.result_bytes + limits.result_bytes // 8 + MIB, limits.scratch_bytes),
            cpu_s=int(limits.time_s * _CORES) + 10,
        )

    def cell(self, deployment: Deployment, owner: UserName = ANONYMOUS) -> CellLimits | None:
        """What this person's job on this model is closed in; None if it is not."""
        return self._cell if self._seals(deployment.isolation, owner) else None

    def slots(self, deployment: Deployment) -> int:
        """How many jobs one of its replicas takes at once.

        So many as may run the model by themselves: of those that share a process, one. Where traces are merged as many as
        one shared pass has room for, so that they can meet.
        """
        alone = deployment.sealed_at_once if self._seals(deployment.isolation, ANONYMOUS) else 1
        return alone if deployment.merging is None else max(alone, deployment.merging.rows)

    def merges(self, deployment: Deployment, job: Job) -> bool:
        """Whether this job's traces may share forward passes with those of others."""
        return deployment.merging is not None and job.extras.merge

    def _seals(self, isolation: Isolation, owner: UserName) -> bool:
        if isolation is Isolation.AUTO:
            return self.any_user or owner != ANONYMOUS
        return isolation is Isolation.SEALED
