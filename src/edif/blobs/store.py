"""The port to the blob store: named immutable byte strings, written once, whole or not at all, and the names of a job's blobs."""

import re
from collections.abc import AsyncIterator
from typing import Protocol

from edif.core import errors
from edif.core.errors import OverLimit
from edif.core.ids import JobId
from edif.core.job import Job


class BlobStore(Protocol):
    """Payloads and results. A blob is visible only when it is complete and durable.

    Every method may raise :class:`~edif.core.errors.BlobsUnavailable`: the store cannot be used now, and what was asked for
    did not happen.
    """

    async def put(self, name: str, chunks: AsyncIterator[bytes], *, limit_bytes: int) -> int:
        """Write a blob and return its size in bytes.

        Raises:
            OverLimit: more than ``limit_bytes`` came; nothing is kept.
            Refused: the store is full; nothing is kept.
        """
        ...

    async def size(self, name: str) -> int | None:
        """Size in bytes, None if there is no such blob."""
        ...

    async def read(self, name: str) -> bytes:
        """The whole blob; for small ones.

        Raises:
            FileNotFoundError: there is no such blob.
        """
        ...

    async def delete(self, name: str) -> None:
        """Delete a blob; one that is not there is no error."""
        ...

    async def rename(self, old: str, new: str) -> None:
        """Give a blob another name, under which it replaces what is there; durable when this returns.

        Whoever dies in it, or is told that the store is away, leaves the blob under the old name, the new one or both; asked for
        again it goes on from there. Who reads under the old name already may read to the end.

        Raises:
            FileNotFoundError: there is no blob of the old name.
        """
        ...

    async def sweep_temporary(self, older_than_s: float) -> None:
        """Delete what was begun, not finished, and not written to for so many seconds."""
        ...

    async def names(self) -> list[str]:
        """The names of all blobs."""
        ...

    def free_bytes(self) -> int:
        """Space left on this machine's disk for blobs, or where they wait on their way, in bytes."""
        ...


KINDS = ("payload", "result", "kept")
_NAME = re.compile(rf"({'|'.join(KINDS)})/[A-Za-z0-9_-]{{1,80}}")


def is_name(name: str) -> bool:
    """Whether a blob may have this name: a kind and an id, both plain words, so that no name leads out of a store."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> None:
    """
    Raises:
        ValueError: it is none.
    """
    if not is_name(name):
        raise ValueError(f"not a blob name: {name!r}")


def check_size(size: int, limit_bytes: int) -> None:
    """
    Raises:
        OverLimit: so much came, in bytes, and that is too much.
    """
    if size > limit_bytes:
        raise OverLimit(
            errors.BODY_TOO_LARGE,
            f"The upload is larger than the {limit_bytes / 2**20:.0f} MiB that this fabric takes.",
        )


def payload_name(job_id: str) -> str:
    return f"payload/{job_id}"


def result_name(job_id: str, attempt: int, revocations: int = 0) -> str:
    """Each attempt has a name of its own: one that was given up cannot overwrite the one that counts.

    Its result gets another one whenever the links to it are revoked: see :mod:`edif.blobs.revoking`.
    """
    return f"result/{_of_attempt(job_id, attempt, revocations)}"


def result_of(job: Job) -> str:
    """The name of the result that a job is on record with."""
    return result_name(job.id, job.attempts, job.revocations)


_OF_ATTEMPT = re.compile(r"(?:result|kept)/(.+)-[0-9]+(?:-r([0-9]+))?")


def kept_name(job_id: str, attempt: int, revocations: int = 0) -> str:
    """The values that this attempt keeps on the fabric; they are renamed with the result."""
    return f"kept/{_of_attempt(job_id, attempt, revocations)}"


def kept_of(job: Job) -> str:
    """The name of the values that a job is on record with."""
    return kept_name(job.id, job.attempts, job.revocations)


def _of_attempt(job_id: str, attempt: int, revocations: int) -> str:
    return f"{job_id}-{attempt}" + (f"-r{revocations}" if revocations else "")


def job_of(name: str) -> JobId:
    """The job that a blob belongs to; an empty id if it is no job's."""
    kind, _, blob = name.partition("/")
    if kind == "payload":
        return JobId(blob)
    found = _OF_ATTEMPT.fullmatch(name)
    return JobId("" if found is None else found[1])


def revocations_of(name: str) -> int:
    """How often links to a result or kept values were revoked when they got this name."""
    found = _OF_ATTEMPT.fullmatch(name)
    return 0 if found is None else int(found[2] or 0)
