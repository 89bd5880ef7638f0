"""A result whose links are revoked gets another name: who holds a link to the one before finds nothing there.

It works alike for links of the gateway's own and a bucket's presigned ones, and for what the job keeps beside its result. The revocation
is counted on record first, and then the blobs are renamed; the next one is counted only when none has the name before any more. So a blob
lies under its present name or, if somebody died in between, under the one before or both. Whoever needs it asks here, and ends what was begun.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace

from edif.blobs.store import BlobStore, kept_of, result_of
from edif.core.job import Job

Name = Callable[[Job], str]
"""``result_of`` or ``kept_of``."""


def names(job: Job) -> list[str]:
    """What a completed job's blobs are called now."""
    return [result_of(job), *([] if job.kept_bytes is None else [kept_of(job)])]


def names_before(job: Job) -> list[str]:
    """The names that the last revocation takes from them; none if there was none."""
    return names(_before(job)) if job.revocations else []


def _before(job: Job) -> Job:
    return replace(job, revocations=job.revocations - 1)


async def present_size(blobs: BlobStore, name: Name, job: Job) -> int | None:
    """Size in bytes of what the job calls so, which has its present name then; None if it is not kept any more.

    Raises:
        BlobsUnavailable: the store cannot be used now.
    """
    size = await blobs.size(name(job))
    if size is not None or not job.revocations:
        return size
    with contextlib.suppress(FileNotFoundError):  # it is gone, or somebody else is renaming it
        await blobs.rename(name(_before(job)), name(job))
    return await blobs.size(name(job))


async def end_revocation(blobs: BlobStore, job: Job) -> bool:
    """See to it that the job's blobs have their present names alone; False if its result is not kept any more.

    Raises:
        BlobsUnavailable: the store cannot be used now; names before may still be there.
    """
    kept = await present_size(blobs, result_of, job) is not None
    if job.kept_bytes is not None:
        await present_size(blobs, kept_of, job)
    for before in names_before(job):
        await blobs.delete(before)
    return kept
