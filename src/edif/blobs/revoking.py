"""A result whose links are revoked gets another name: who holds a link to the one before finds nothing there.

It works alike for links of the gateway's own and a bucket's presigned ones. The revocation is counted on record first, and then the
blob is renamed; the next one is counted only when no blob has the name before any more. So a result lies under its present name or,
if somebody died in between, under the one before or both. Whoever needs it asks here, and ends what was begun.
"""

import contextlib

from edif.blobs.store import BlobStore, result_name, result_of
from edif.core.job import Job


def name_before(job: Job) -> str | None:
    """The name that the last revocation takes from the job's result; None if there was none."""
    return result_name(job.id, job.attempts, job.revocations - 1) if job.revocations else None


async def result_size(blobs: BlobStore, job: Job) -> int | None:
    """Size of the job's result in bytes, which has its present name then; None if it is not kept any more.

    Raises:
        BlobsUnavailable: the store cannot be used now.
    """
    size = await blobs.size(result_of(job))
    before = name_before(job)
    if size is not None or before is None:
        return size
    with contextlib.suppress(FileNotFoundError):  # it is gone, or somebody else is renaming it
        await blobs.rename(before, result_of(job))
    return await blobs.size(result_of(job))


async def end_revocation(blobs: BlobStore, job: Job) -> bool:
    """See to it that the result has its present name alone; False if it is not kept any more.

    Raises:
        BlobsUnavailable: the store cannot be used now; the name before may still be there.
    """
    kept = await result_size(blobs, job) is not None
    if (before := name_before(job)) is not None:
        await blobs.delete(before)
    return kept
