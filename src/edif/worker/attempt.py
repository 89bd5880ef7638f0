"""One attempt on a replica, from its payload to the committed result, and how it ended."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from edif.core import errors
from edif.core.errors import ErrorCode, JobFailed
from edif.core.job import AttemptOutcome
from edif.wire import link, pipe
from edif.worker.replica import JobCallbacks, JobRefused, Replica, RunnerDied
from edif.worker.transfer import Spooled, Transfer, TransferFailed

log = structlog.get_logger()

_LOG_NOTICE_BYTES = 200
"""Room for the executor's own notice that the rest was cut."""

Say = Callable[[link.ToGateway], None]


class _Refused(JobFailed):
    """The executor's own word on why the job failed, with what it used until then."""

    def __init__(self, failure: pipe.Failed) -> None:
        kind = errors.catalogue().get(failure.code, errors.INTERNAL)
        super().__init__(kind, failure.sentence, failure.next_step)
        self.usage = link.Usage(
            run_s=failure.run_s, tokens=failure.tokens, peak_memory_bytes=failure.peak_memory_bytes
        )


async def run_attempt(
    message: link.RunAttempt, replica: Replica | None, transfer: Transfer, say: Say
) -> link.AttemptEnded:
    """Run the attempt and say on the way how far it is. Cancelling the task cancels the attempt.

    The end is returned, not said: the agent keeps it until the gateway has confirmed it.
    """
    began = time.monotonic()
    try:
        ended = await _try(message, replica, transfer, say)
    except asyncio.CancelledError:
        ended = _ended(message, AttemptOutcome.CANCELLED, errors.CANCELLED, "The job was cancelled.")
    if ended.usage.run_s == 0.0:  # a process that was ended could not tell what it used
        spent = msgspec.structs.replace(ended.usage, run_s=time.monotonic() - began)
        ended = msgspec.structs.replace(ended, usage=spent)
    return ended


def cannot_seal(message: link.RunAttempt, reason: str) -> link.AttemptEnded:
    """The end of an attempt that this node must not begin: it would run without its walls."""
    return _ended(message, AttemptOutcome.FAILED, errors.CANNOT_SEAL, reason)


async def _try(
    message: link.RunAttempt, replica: Replica | None, transfer: Transfer, say: Say
) -> link.AttemptEnded:
    if replica is None:
        return _lost(message, "The replica is gone.")
    try:
        return await _run(message, replica, transfer, say)
    except JobFailed as error:
        usage = error.usage if isinstance(error, _Refused) else None
        return _ended(message, AttemptOutcome.FAILED, error.kind, error.sentence, error.next_step, usage)
    except RunnerDied as error:
        if error.by_its_job:
            return _ended(message, AttemptOutcome.FAILED, errors.PROCESS_DIED, error.sentence)
        return _lost(message, error.sentence)
    except TransferFailed as error:
        return _lost(message, f"On the node, {error}.")
    except OSError as error:
        log.exception("agent.attempt_failed", job=message.job)
        return _lost(message, f"On the node: {error.strerror}.")


async def _run(message: link.RunAttempt, replica: Replica, transfer: Transfer, say: Say) -> link.AttemptEnded:
    began = time.monotonic()
    payload_fd = await transfer.payload(message.job, message.payload_url)
    try:
        spooled = transfer.result(message.job, message.attempt, message.result_url)
        try:
            fetched = time.monotonic()
            say(link.AttemptStarted(message.job, message.attempt))
            done = await _execute(message, replica, payload_fd, spooled, say)
            executed = time.monotonic()
            _check_size(spooled.path, message.result_limit_bytes)
            committed = await spooled.commit()
        except BaseException:
            spooled.discard()
            raise
    finally:
        os.close(payload_fd)
    return link.AttemptEnded(
        message.job,
        message.attempt,
        outcome=AttemptOutcome.COMPLETED,
        error_code=None,
        sentence="",
        next_step="",
        usage=link.Usage(
            run_s=done.run_s,
            save_s=done.save_s,
            transfer_s=fetched - began + time.monotonic() - executed,
            tokens=done.tokens,
            peak_memory_bytes=done.peak_memory_bytes,
        ),
        result_bytes=committed.size,
        result_sha256=committed.sha256,
    )


async def _execute(
    message: link.RunAttempt, replica: Replica, payload_fd: int, spooled: Spooled, say: Say
) -> pipe.Done:
    request = pipe.RunJob(
        env=message.env,
        compress=message.compress,
        result_limit_bytes=message.result_limit_bytes,
        expanded_limit_bytes=message.expanded_limit_bytes,
        log_limit_bytes=message.log_limit_bytes,
    )
    words = _Words(message, say)
    callbacks = JobCallbacks(log=words.log, saving=words.saving)
    result_fd = os.open(spooled.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        async with asyncio.timeout(message.time_limit_s):
            return await replica.run(request, payload_fd, result_fd, callbacks, message.cell)
    except TimeoutError:
        raise JobFailed(
            errors.TIME_LIMIT,
            f"The job ran longer than the {message.time_limit_s:g} seconds that a job may take, and was stopped.",
        ) from None
    except JobRefused as error:
        raise _Refused(error.failure) from None
    finally:
        os.close(result_fd)


class _Words:
    """What the executor says of a running job, passed on within the limits that it should keep itself."""

    def __init__(self, message: link.RunAttempt, say: Say) -> None:
        self._message = message
        self._say = say
        self._left = message.log_limit_bytes + _LOG_NOTICE_BYTES
        self._told_saving = False

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
    usage: link.Usage | None = None,
) -> link.AttemptEnded:
    return link.AttemptEnded(
        message.job,
        message.attempt,
        outcome=outcome,
        error_code=kind.code,
        sentence=sentence,
        next_step=kind.next_step if next_step is None else next_step,
        usage=usage or link.Usage(),
        result_bytes=None,
        result_sha256=None,
    )
