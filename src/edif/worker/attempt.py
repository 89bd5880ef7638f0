"""One attempt on a replica, from its payload to the committed result, and how it ended."""

import asyncio
import os
import time
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
from edif.wire import link
from edif.worker.endings import RunnerDied
from edif.worker.progress import Progress, Say
from edif.worker.replica import Replica
from edif.worker.transfer import NotThere, Spooled, Transfer, TransferFailed
from edif.worker.tries import Files, execute

log = structlog.get_logger()

_LEAST_ROOM_BYTES = MIB
_LOOK_FOR_ROOM_EVERY_S = 1.0


async def run_attempt(
    message: link.RunAttempt, replica: Replica | None, transfer: Transfer, say: Say
) -> link.AttemptEnded:
    """Run the attempt and say on the way how far it is. Cancelling the task cancels the attempt.

    The end is returned, not said: the agent keeps it until the gateway has confirmed it.
    """
    progress = Progress(message, say)
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
    message: link.RunAttempt, replica: Replica | None, transfer: Transfer, progress: Progress
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
    message: link.RunAttempt, replica: Replica, transfer: Transfer, progress: Progress
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
            await execute(message, replica, inputs, Files(result.file, kept.file), progress)
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
