"""A result whose links were revoked is found, and ends up under one name, wherever a death has left it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from edif.blobs.revoking import end_revocation, name_before, result_size
from edif.blobs.store import BlobStore, result_name, result_of, revocations_of
from edif.core.ids import ANONYMOUS, JobId, ModelId
from edif.core.job import Job, JobState
from tests.unit.blobs.factories import BlobFactory, chunks_of

JOB = Job(
    JobId("j1"),
    ANONYMOUS,
    ModelId("m"),
    "k",
    False,
    {},
    1,
    1.0,
    JobState.COMPLETED,
    attempts=2,
    revocations=3,
)
BEFORE, PRESENT = result_name("j1", 2, 2), result_name("j1", 2, 3)


def test_names_are_those_of_the_attempt_that_counts() -> None:
    assert (name_before(JOB), result_of(JOB)) == (BEFORE, PRESENT)
    assert (revocations_of(BEFORE), revocations_of(PRESENT)) == (2, 3)
    assert [revocations_of(name) for name in ("payload/j-1-r2", "result/j-r2-1", "result/x-r2")] == [0, 0, 0]
    never = replace(JOB, revocations=0)
    assert (name_before(never), result_of(never)) == (None, "result/j1-2")
    assert name_before(replace(JOB, revocations=1)) == result_of(never)


@pytest.mark.parametrize("lies", [[BEFORE], [PRESENT], [BEFORE, PRESENT], []])
async def test_a_result_has_its_present_name_wherever_a_death_has_left_it(
    store: BlobStore, factory: BlobFactory, tmp_path: Path, lies: list[str]
) -> None:
    for name in lies:
        await store.put(name, chunks_of(b"result"), limit_bytes=10)
    assert await result_size(store, JOB) == (6 if lies else None)
    assert await end_revocation(store, JOB) == bool(lies)
    assert factory.everything(tmp_path) == ({PRESENT: 6} if lies else {})


async def test_many_who_need_it_at_once_all_find_it(
    store: BlobStore, factory: BlobFactory, tmp_path: Path
) -> None:
    await store.put(BEFORE, chunks_of(b"result"), limit_bytes=10)
    assert await asyncio.gather(*(result_size(store, JOB) for _ in range(8))) == [6] * 8
    assert await end_revocation(store, JOB)
    assert factory.everything(tmp_path) == {PRESENT: 6}


async def test_a_result_whose_links_were_never_revoked_is_left_alone(store: BlobStore) -> None:
    never = replace(JOB, revocations=0)
    assert await result_size(store, never) is None
    await store.put(result_of(never), chunks_of(b"result"), limit_bytes=10)
    assert await end_revocation(store, never)
    assert await store.names() == [result_of(never)]
