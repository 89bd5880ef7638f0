"""An attempt's way through a replica's processes: mostly one try, and another where merging did not suit the job."""

import os
from dataclasses import dataclass

import msgspec
import structlog

from edif.core import errors
from edif.core.errors import JobFailed
from edif.wire import link, pipe
from edif.worker.conversations import JobCallbacks
from edif.worker.endings import AskedAlone, AskedTwice, Disturbed, JobRefused
from edif.worker.progress import Progress
from edif.worker.replica import Replica
from edif.worker.spool import SpoolFile

log = structlog.get_logger()

_DISTURBED_AT_MOST = 2
"""So often the others of a process that died may take a job along; then it is run where there are none."""


WAS_THERE = "it was there when the process ended"


@dataclass(frozen=True, slots=True)
class Files:
    """Where the result goes, and what the job keeps."""

    result: SpoolFile
    kept: SpoolFile

    def start_again(self) -> None:
        self.result.start_again()
        self.kept.start_again()


@dataclass(slots=True)
class Standing:
    """How the next try of a job is run, by what has come of those before.

    Attributes:
        alone: whether no other job may be in its process, nor share its passes.
        why_alone: in words, for the log; empty if it is not because of an earlier try of this attempt.
    """

    alone: bool = False
    why_alone: str = ""
    _asked: bool = False
    _disturbed: int = 0

    def request(self, asked: pipe.RunJob) -> pipe.RunJob:
        return msgspec.structs.replace(asked, merge=False) if self.alone else asked

    def after(self, end: AskedAlone | Disturbed) -> None:
        """A try has ended without an answer.

        Raises:
            AskedTwice: the process has asked for another one before.
        """
        if isinstance(end, AskedAlone):
            if self._asked:
                raise AskedTwice from None
            self._asked = True
            self._be_alone(str(end))
        else:
            self._disturbed += end.begun
            if end.suspect or self._disturbed >= _DISTURBED_AT_MOST:
                self._be_alone(WAS_THERE)

    def _be_alone(self, why: str) -> None:
        self.alone, self.why_alone = True, self.why_alone or why


async def execute(
    message: link.RunAttempt, replica: Replica, inputs: list[int], files: Files, progress: Progress
) -> None:
    """Run the job until it is done; then its result is in its file.

    Args:
        inputs: descriptors of the payload and of the kept values that it uses.

    Raises:
        JobFailed: it failed, or ran longer than it may.
        RunnerDied: its process ended.
    """
    request = pipe.RunJob(
        env=message.env,
        compress=message.compress,
        extras=message.extras,
        result_limit_bytes=message.result_limit_bytes,
        expanded_limit_bytes=message.expanded_limit_bytes,
        log_limit_bytes=message.log_limit_bytes,
        merge=message.merge,
    )
    try:
        progress.done(await _run(request, message, replica, inputs, files, progress))
    except TimeoutError:
        raise JobFailed(
            errors.TIME_LIMIT,
            f"The job ran longer than the {message.time_limit_s:g} seconds that a job may take, and was stopped.",
        ) from None
    except JobRefused as error:
        progress.failed(error.failure)
        kind = errors.catalogue().get(error.failure.code, errors.INTERNAL)
        raise JobFailed(kind, error.failure.sentence, error.failure.next_step) from None


async def _run(
    request: pipe.RunJob,
    message: link.RunAttempt,
    replica: Replica,
    inputs: list[int],
    files: Files,
    progress: Progress,
) -> pipe.Done:
    def saving() -> None:
        progress.saving()
        files.result.follow()

    def room() -> int:
        fd = files.kept.create()
        files.kept.follow()
        return fd

    callbacks = JobCallbacks(
        log=progress.log, saving=saving, room=room, shared=progress.shared, spent=progress.spent
    )
    # Whoever has lost an earlier try, to a death of its process perhaps, takes nobody along in this one.
    standing = Standing(alone=message.attempt > 1 and message.cell is None)
    payload_fd, *kept_fds = inputs
    while True:
        result_fd = files.result.create()
        try:
            fds = (payload_fd, result_fd, *kept_fds)
            return await replica.run(
                standing.request(request),
                fds,
                callbacks,
                message.cell,
                message.time_limit_s,
                alone=standing.alone,
            )
        except (AskedAlone, Disturbed) as end:
            standing.after(end)
            log.info("agent.run_again", job=message.job, alone=standing.alone, reason=standing.why_alone)
        finally:
            os.close(result_fd)
        files.start_again()
        progress.try_again()
