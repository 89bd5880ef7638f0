"""A result whose links were revoked is found, and ends up under one name, wherever a death has left it; so is what its job keeps."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from edif.blobs.revoking import Name, end_revocation, names, names_before, present_size
from edif.blobs.store import BlobStore, kept_of, payload_name, result_name, result_of, revocations_of
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
KEEPS = replace(JOB, kept_bytes=6)
BEFORE, PRESENT = result_name("j1", 2, 2), result_name("j1", 2, 3)
BOTH = pytest.mark.parametrize("name", [result_of, kept_of])


def test_names_are_those_of_the_attempt_that_counts() -> None:
    assert (names_before(JOB), names(JOB)) == ([BEFORE], [PRESENT])
    assert names(KEEPS) == ["result/j1-2-r3", "kept/j1-2-r3"]
    assert names_before(KEEPS) == ["result/j1-2-r2", "kept/j1-2-r2"]
    never = replace(KEEPS, revocations=0)
    assert (names_before(never), names(never)) == ([], ["result/j1-2", "kept/j1-2"])
    assert names_before(replace(KEEPS, revocations=1)) == names(never)


def test_names_say_how_often_links_were_revoked() -> None:
    assert [revocations_of(name) for name in (*names(KEEPS), *names_before(KEEPS))] == [3, 3, 2, 2]
    assert [revocations_of(name) for name in (payload_name("j-1-r2"), "result/j-r2-1", "kept/x-r2")] == [
        0
    ] * 3


@BOTH
@pytest.mark.parametrize("lies", [("before",), ("present",), ("before", "present"), ()], ids=" and ".join)
async def test_a_blob_has_its_present_name_wherever_a_death_has_left_it(
    store: BlobStore, factory: BlobFactory, tmp_path: Path, name: Name, lies: tuple[str, ...]
) -> None:
    before, present = name(replace(KEEPS, revocations=2)), name(KEEPS)
    for place in lies:
        await store.put({"before": before, "present": present}[place], chunks_of(b"values"), limit_bytes=10)
    assert await present_size(store, name, KEEPS) == (6 if lies else None)
    assert await end_revocation(store, KEEPS) == (bool(lies) and name is result_of)
    assert factory.everything(tmp_path) == ({present: 6} if lies else {})


@BOTH
async def test_many_who_need_it_at_once_all_find_it(
    store: BlobStore, factory: BlobFactory, tmp_path: Path, name: Name
) -> None:
    await store.put(name(replace(KEEPS, revocations=2)), chunks_of(b"values"), limit_bytes=10)
    assert await asyncio.gather(*(present_size(store, name, KEEPS) for _ in range(8))) == [6] * 8
    await end_revocation(store, KEEPS)
    assert factory.everything(tmp_path) == {name(KEEPS): 6}


async def test_a_result_whose_links_were_never_revoked_is_left_alone(store: BlobStore) -> None:
    never = replace(JOB, revocations=0)
    assert await present_size(store, result_of, never) is None
    await store.put(result_of(never), chunks_of(b"result"), limit_bytes=10)
    assert await end_revocation(store, never)
    assert await store.names() == [result_of(never)]
