"""One attempt on a replica, from its payload to the committed result, and how it ended."""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import msgspec
import structlog

from edif import faults
from edif.blobs.store import job_of, kept_name, payload_name, result_name
from edif.core import errors
from edif.core.errors import EdifError, ErrorCode, JobFailed
from edif.core.job import MAX_ATTEMPTS, AttemptOutcome
from edif.core.limits import MIB
from edif.faults import Point
from edif.wire import link, pipe
from edif.worker.replica import Replica
from edif.worker.runners import JobCallbacks, JobRefused, RunnerDied
from edif.worker.transfer import NotThere, Spooled, Transfer, TransferFailed

log = structlog.get_logger()

_LOG_NOTICE_BYTES = 200
"""Room for the executor's own notice that the rest was cut."""

_LEAST_ROOM_BYTES = MIB
_LOOK_FOR_ROOM_EVERY_S = 1.0

Say = Callable[[link.ToGateway], None]


async def run_attempt(
    message: link.RunAttempt, replica: Replica | None, transfer: Transfer, say: Say
) -> link.AttemptEnded:
    """Run the attempt and say on the way how far it is. Cancelling the task cancels the attempt.

    The end is returned, not said: the agent keeps it until the gateway has confirmed it.
    """
    progress = _Progress(message, say)
    try:
        ended = await _try(message, replica, transfer, progress)
    except asyncio.CancelledError:
        ended = cancelled(message)
    return msgspec.structs.replace(ended, usage=progress.usage)


def cancelled(message: link.RunAttempt) -> link.AttemptEnded:
    return _ended(message, AttemptOutcome.CANCELLED, errors.CANCELLED, "The job was cancelled.")


def cannot_seal(message: link.RunAttempt, reason: str) -> link.AttemptEnded:
    """The end of an attempt that this node must not begin: it would run without its walls."""
    return _ended(message, AttemptOutcome.FAILED, errors.CANNOT_SEAL, reason)


async def _try(
    message: link.RunAttempt, replica: Replica | None, transfer: Transfer, progress: "_Progress"
) -> link.AttemptEnded:
    if replica is None:
        return _lost(message, "The replica is gone.")
    try:
        return await _run(message, replica, transfer, progress)
    except EdifError as error:
        if error.kind is errors.STORAGE_FULL and message.attempt < MAX_ATTEMPTS and not _room(transfer):
            # The disk is full even without this result, so it was not to blame.
            return _lost(message, error.sentence)
        return _ended(message, AttemptOutcome.FAILED, error.kind, error.sentence, error.next_step)
    except RunnerDied as error:
        if error.by_its_job:
            return _ended(message, AttemptOutcome.FAILED, errors.PROCESS_DIED, error.sentence)
        return _lost(message, error.sentence)
    except TransferFailed as error:
        return _lost(message, f"On the node, {error}.")
    except OSError as error:
        log.exception("agent.attempt_failed", job=message.job)
        return _lost(message, f"On the node: {error.strerror}.")
    except Exception as error:  # whatever one attempt meets, the agent's others go on
        log.exception("agent.attempt_failed", job=message.job)
        return _lost(message, f"On the node: {type(error).__name__}.")


async def _run(
    message: link.RunAttempt, replica: Replica, transfer: Transfer, progress: "_Progress"
) -> link.AttemptEnded:
    await _wait_for_room(message, transfer)
    began = time.monotonic()
    with ExitStack() as opened:
        inputs = await _inputs(message, transfer, opened)
        faults.point(Point.PAYLOAD_FETCHED)
        result = transfer.spool(result_name(message.job, message.attempt), message.result_url)
        kept = transfer.spool(kept_name(message.job, message.attempt), message.kept_url)
        try:
            fetched = time.monotonic()
            progress.started()
            await _execute(message, replica, inputs, result, kept, progress)
            executed = time.monotonic()
            kept_bytes = await _commit_kept(kept, message.result_limit_bytes)
            _check_size(result.file.path, message.result_limit_bytes)
            committed = await result.commit()
            faults.point(Point.RESULT_COMMITTED)
            progress.moved(fetched - began + time.monotonic() - executed)
        except BaseException:
            result.discard()
            kept.discard()
            raise
    return link.AttemptEnded(
        message.job,
        message.attempt,
        outcome=AttemptOutcome.COMPLETED,
        error_code=None,
        sentence="",
        next_step="",
        usage=progress.usage,
        result_bytes=committed.size,
        result_sha256=committed.sha256,
        kept_bytes=kept_bytes,
    )


async def _inputs(message: link.RunAttempt, transfer: Transfer, opened: ExitStack) -> list[int]:
    """Descriptors of the payload and of the kept values that it uses, which ``opened`` closes."""
    inputs = []
    for name, url in (
        (payload_name(message.job), message.payload_url),
        *((kept.name, kept.url) for kept in message.kept),
    ):
        try:
            fd = await transfer.fetch(name, url)
        except NotThere as error:
            if name == payload_name(message.job):
                raise
            raise JobFailed(
                errors.KEPT_GONE, f"The values that job {job_of(name)} kept are not there any more."
            ) from error
        opened.callback(os.close, fd)
        inputs.append(fd)
    return inputs


async def _commit_kept(kept: Spooled, limit_bytes: int) -> int | None:
    """The size of what the job keeps, when it is in the blob store; None if it keeps nothing."""
    if not kept.file.path.exists():
        return None
    _check_size(kept.file.path, limit_bytes)
    committed = await kept.commit()
    faults.point(Point.KEPT_COMMITTED)
    return committed.size


def _room(transfer: Transfer) -> bool:
    return transfer.free_bytes() >= _LEAST_ROOM_BYTES


async def _wait_for_room(message: link.RunAttempt, transfer: Transfer) -> None:
    """While the disk is full, nothing begins here: its result could not be kept."""
    for looks in count():
        if _room(transfer):
            return
        if looks == 0:
            log.warning("agent.no_room", job=message.job)
        await asyncio.sleep(_LOOK_FOR_ROOM_EVERY_S)


async def _execute(
    message: link.RunAttempt,
    replica: Replica,
    inputs: list[int],
    result: Spooled,
    kept: Spooled,
    progress: "_Progress",
) -> None:
    request = pipe.RunJob(
        env=message.env,
        compress=message.compress,
        extras=message.extras,
        result_limit_bytes=message.result_limit_bytes,
        expanded_limit_bytes=message.expanded_limit_bytes,
        log_limit_bytes=message.log_limit_bytes,
        merge=message.merge,
    )

    def saving() -> None:
        progress.saving()
        result.file.follow()

    def room() -> int:
        fd = _create(kept.file.path)
        kept.file.follow()
        return fd

    callbacks = JobCallbacks(log=progress.log, saving=saving, room=room, spent=progress.spent)
    result_fd = _create(result.file.path)
    payload_fd, *kept_fds = inputs
    try:
        fds = (payload_fd, result_fd, *kept_fds)
        progress.done(await replica.run(request, fds, callbacks, message.cell, message.time_limit_s))
    except TimeoutError:
        raise JobFailed(
            errors.TIME_LIMIT,
            f"The job ran longer than the {message.time_limit_s:g} seconds that a job may take, and was stopped.",
        ) from None
    except JobRefused as error:
        progress.failed(error.failure)
        kind = errors.catalogue().get(error.failure.code, errors.INTERNAL)
        raise JobFailed(kind, error.failure.sentence, error.failure.next_step) from None
    finally:
        os.close(result_fd)


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


class _Progress:
    """What becomes of an attempt, told on the way, and what it has used so far.

    What the executor says is passed on within the limits that it should keep itself. Seconds and memory are measured
    outside it; how the seconds divide, and the tokens, are its own word.
    """

    def __init__(self, message: link.RunAttempt, say: Say) -> None:
        self._message = message
        self._say = say
        self._left = message.log_limit_bytes + _LOG_NOTICE_BYTES
        self._told_saving = False
        self.usage = link.Usage()

    def started(self) -> None:
        self._say(link.AttemptStarted(self._message.job, self._message.attempt))

    def spent(self, seconds: float, memory_bytes: int) -> None:
        self._use(run_s=seconds, charged_s=seconds, peak_memory_bytes=memory_bytes)

    def done(self, said: pipe.Done) -> None:
        whole = self.usage.run_s
        save_s = min(max(said.save_s, 0.0), whole)
        self._use(
            run_s=whole - save_s,
            charged_s=whole - save_s,
            save_s=save_s,
            tokens=said.tokens,
            packed=said.packed,
            rounded_tensors=said.rounded,
        )

    def failed(self, said: pipe.Failed) -> None:
        self._use(tokens=said.tokens)

    def moved(self, seconds: float) -> None:
        self._use(transfer_s=seconds)

    def _use(self, **fields: float) -> None:
        self.usage = msgspec.structs.replace(self.usage, **fields)

    def log(self, text: str) -> None:
        self._left -= len(text)
        if self._left >= 0:
            self._say(link.AttemptLog(self._message.job, self._message.attempt, text))

    def saving(self) -> None:
        if not self._told_saving:
            self._told_saving = True
            self._say(link.AttemptSaving(self._message.job, self._message.attempt))


def _check_size(result: Path, limit_bytes: int) -> None:
    """The executor keeps the limit itself; this is for one that does not."""
    if result.stat().st_size > limit_bytes:
        raise JobFailed(errors.RESULT_TOO_LARGE, "The result is larger than allowed.")


def _lost(message: link.RunAttempt, sentence: str) -> link.AttemptEnded:
    return _ended(message, AttemptOutcome.LOST, errors.REPLICA_LOST, sentence)


def _ended(
    message: link.RunAttempt,
    outcome: AttemptOutcome,
    kind: ErrorCode,
    sentence: str,
    next_step: str | None = None,
) -> link.AttemptEnded:
    return link.AttemptEnded(
        message.job,
        message.attempt,
        outcome=outcome,
        error_code=kind.code,
        sentence=sentence,
        next_step=kind.next_step if next_step is None else next_step,
        usage=link.Usage(),
        result_bytes=None,
        result_sha256=None,
    )
