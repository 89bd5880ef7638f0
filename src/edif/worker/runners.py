"""What sealed and shared runners have in common: a process that runs jobs, of which it takes so many at once."""

import socket
from abc import abstractmethod
from collections.abc import Sequence

from edif.wire import pipe
from edif.wire.link import CellLimits
from edif.worker.conversations import JobCallbacks
from edif.worker.processes import Process, ProcessCallbacks


class Runner(Process):
    """One process that runs jobs.

    Args:
        replica_id: the replica that it belongs to, for the log.
        cell: that of a sealed one; None for a shared one.

    Attributes:
        held: for so many jobs it is set aside, those that it runs included.
        held_alone: whether that is one job which must have it for itself.
    """

    def __init__(
        self,
        replica_id: str,
        sock: socket.socket,
        cell: CellLimits | None,
        callbacks: ProcessCallbacks,
        most: int,
    ) -> None:
        super().__init__(sock, pipe.from_runner, callbacks, most)
        self.cell = cell
        self.held = 0
        self.held_alone = False
        self._replica_id = replica_id

    @abstractmethod
    def may_take(self, *, alone: bool) -> bool:
        """Whether it can be set aside for one more job now; with ``alone`` for one that must have it for itself."""

    @property
    def collects(self) -> bool:
        """Whether a job that comes now is likely to run together with those that it has."""
        return False

    def take(self, *, alone: bool) -> None:
        """Set it aside for one job, until :meth:`give_back`."""
        self.held += 1
        self.held_alone = alone

    def give_back(self) -> None:
        """The job for which it was set aside is over, or does not want it any more."""
        self.held -= 1
        self.held_alone = False  # whoever has it alone is the only one to give it back

    @abstractmethod
    async def run(
        self,
        request: pipe.RunJob,
        fds: Sequence[int],
        job: JobCallbacks,
        time_limit_s: float,
        *,
        alone: bool = False,
    ) -> pipe.Done:
        """Run one job and wait for its end. A job that is cancelled or runs too long takes the process with it.

        Args:
            fds: those that ride along with the request.
            alone: whether the runner was set aside for this job alone.

        Raises:
            TimeoutError: the job ran longer than it may.
            JobRefused: the executor said that the job failed.
            AskedAlone: it is to be run again without merging.
            RunnerDied: the process ended before it answered.
            Disturbed: so it did, while it had several jobs, and not because of this one.
        """
