"""Links are revoked and results deleted: what of it holds whatever dies, fails or happens at the same time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import httpx
import pytest

from edif import faults
from edif.blobs.file_blobs import FileBlobs
from edif.blobs.store import BlobStore, kept_name, payload_name, result_name, result_of
from edif.core import errors
from edif.core.errors import AuthRefused, BlobsUnavailable, ErrorCode, NotFound, Refused
from edif.core.ids import ANONYMOUS, ModelId, UserName, new_job_id
from edif.core.job import Attempt, AttemptOutcome, ClientStatus, Ending, Job, JobState
from edif.faults import Point
from edif.gateway.fabric import Fabric
from edif.gateway.retention import Retention, retire_some, sweep_strays
from edif.gateway.stored_results import StoredResults
from edif.records.sql_store import SqlRecordStore
from tests.unit.gateway.conftest import ADA, TOKENS, add_key

EVE = UserName("eve")
Asked = Callable[[StoredResults, Job, str], Awaitable[object]]
EITHER = pytest.mark.parametrize("asked", [StoredResults.revoke_links, StoredResults.delete])


async def with_result(
    records: SqlRecordStore, blobs: FileBlobs, owner: UserName = ANONYMOUS, kept: bytes | None = None
) -> Job:
    """A job that has completed, as it is on record, with a result of six bytes."""
    job = Job(new_job_id(), owner, ModelId("m/one"), "k", False, {}, 1, time.time())
    await records.add_job(job)
    await records.begin_attempt(Attempt(job.id, 1, "a1", "r1", 1.0, 2.0))
    blobs.path(result_name(job.id, 1)).write_bytes(b"result")
    if kept is not None:
        blobs.path(kept_name(job.id, 1)).write_bytes(kept)
    kept_bytes = None if kept is None else len(kept)
    await records.end_job(
        job.id,
        Ending(JobState.COMPLETED, result_bytes=6, result_sha256="0", kept_bytes=kept_bytes),
        now=time.time(),
        attempt=1,
        outcome=AttemptOutcome.COMPLETED,
    )
    return await on_record(records, job)


async def on_record(records: SqlRecordStore, job: Job) -> Job:
    found = await records.job(job.id)
    assert found is not None
    return found


@pytest.fixture
def retired() -> list[Job]:
    return []


@pytest.fixture
def results(records: SqlRecordStore, blobs: FileBlobs, retired: list[Job]) -> StoredResults:
    return StoredResults(records, blobs, retired.append)


async def acts(records: SqlRecordStore, job: Job) -> list[str]:
    found = [each.entry.action for each in await records.audit(about=job.id)]
    return [action for action in found if action.startswith("result.")]


async def refused(asked: Awaitable[object]) -> ErrorCode:
    with pytest.raises(Refused) as caught:
        await asked
    return caught.value.kind


class Died(BaseException):
    """Nothing of the gateway runs after it."""


# -- revoking ------------------------------------------------------------------------------------------
async def test_each_revocation_gives_the_result_another_name(
    results: StoredResults, records: SqlRecordStore, blobs: FileBlobs
) -> None:
    job = await with_result(records, blobs)
    for number in (1, 2, 3):
        revoked = await results.revoke_links(job, "user:u1")
        assert revoked == replace(job, revocations=number) == await on_record(records, job)
        assert await blobs.names() == [result_name(job.id, 1, number)]
        assert await blobs.read(result_of(revoked)) == b"result"
    assert await acts(records, job) == ["result.links_revoked"] * 3


async def test_links_to_what_a_job_keeps_are_revoked_with_those_to_its_result(
    gateway: httpx.AsyncClient, records: SqlRecordStore, blobs: FileBlobs
) -> None:
    job = await with_result(records, blobs, kept=b"values")
    path = f"/edif/v1/jobs/{job.id}"
    first = (await gateway.get(f"{path}/kept")).json()["url"]
    assert (await gateway.get(first)).content == b"values"
    assert (await gateway.post(f"{path}/revoke-links")).status_code == 200
    told = await gateway.get(first)
    assert (told.status_code, told.json()["code"]) == (403, errors.LINK_INVALID.code)
    second = (await gateway.get(f"{path}/kept")).json()["url"]
    assert (await gateway.get(second)).content == b"values"
    assert sorted(await blobs.names()) == sorted([result_name(job.id, 1, 1), kept_name(job.id, 1, 1)])
    assert (await gateway.delete(f"{path}/result")).status_code == 200
    assert (await gateway.get(second)).status_code == 410
    assert await blobs.names() == []
    assert await records.stored_bytes() == {}


async def test_revocations_of_many_at_once_are_each_done(
    results: StoredResults, records: SqlRecordStore, blobs: FileBlobs
) -> None:
    job = await with_result(records, blobs)
    await asyncio.gather(*(results.revoke_links(job, "user:u1") for _ in range(20)))
    now = await on_record(records, job)
    assert now.revocations == 20
    assert await blobs.names() == [result_of(now)]


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("who", ["owner", "who asks again", "next gateway"])
async def test_a_gateway_that_dies_between_record_and_renaming_loses_nothing(
    fabric: Fabric,
    records: SqlRecordStore,
    blobs: FileBlobs,
    monkeypatch: pytest.MonkeyPatch,
    who: str,
    copied: bool,
) -> None:
    job = await with_result(records, blobs)

    def dies(point: Point) -> None:
        assert point is Point.REVOCATION_RECORDED
        if copied:  # as a bucket's renaming leaves it in the middle
            blobs.path(result_name(job.id, 1, 1)).write_bytes(b"result")
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr(faults, "point", dies)
        with pytest.raises(Died):
            await fabric.stored_results.revoke_links(job, "user:u1")
    assert await blobs.size(result_name(job.id, 1)) == 6
    now = await on_record(records, job)
    assert now.revocations == 1
    match who:
        case "owner":
            frame = await fabric.jobs.status(now, "http://here")
            assert (frame.status, result_of(now) in str(frame.data)) == (ClientStatus.COMPLETED, True)
            assert await blobs.size(result_of(now)) == 6
            return
        case "who asks again":
            now = await fabric.stored_results.revoke_links(job, "user:u1")
            assert now.revocations == 2
        case "next gateway":
            await sweep_strays(records, blobs)
    assert await blobs.names() == [result_of(now)]
    assert await blobs.read(result_of(now)) == b"result"


class Away(FileBlobs):
    """A folder that does not answer when it is asked to change."""

    async def rename(self, old: str, new: str) -> None:
        raise BlobsUnavailable(errors.BLOBS_UNREACHABLE, "The store does not answer.")

    async def delete(self, name: str) -> None:
        raise BlobsUnavailable(errors.BLOBS_UNREACHABLE, "The store does not answer.")


async def test_a_store_that_is_away_is_told_with_what_is_on_record(
    records: SqlRecordStore, blobs: FileBlobs, retired: list[Job]
) -> None:
    job = await with_result(records, blobs)
    away: BlobStore = Away(blobs.folder)
    with pytest.raises(BlobsUnavailable, match="revoked on record, but may still open") as told:
        await StoredResults(records, away, retired.append).revoke_links(job, "user:u1")
    assert told.value.kind is errors.BLOBS_UNREACHABLE
    with pytest.raises(BlobsUnavailable):  # the revocation before is not ended: no further one is counted
        await StoredResults(records, away, retired.append).revoke_links(job, "user:u1")
    assert (await on_record(records, job)).revocations == 1
    await StoredResults(records, blobs, retired.append).revoke_links(job, "user:u1")
    assert await blobs.names() == [result_name(job.id, 1, 2)]


async def test_who_read_the_record_before_is_told_the_name_that_is(
    fabric: Fabric, records: SqlRecordStore, blobs: FileBlobs
) -> None:
    before = await with_result(records, blobs)
    for _ in range(2):
        now = await fabric.jobs.revoke_links(before, ANONYMOUS)
    frame = await fabric.jobs.status(before, "http://here")
    assert result_of(now) in str(frame.data)


@pytest.mark.parametrize("copied_at", [0, 1, 3])
async def test_records_that_come_back_from_a_copy_learn_what_was_revoked_since(
    fabric: Fabric, records: SqlRecordStore, blobs: FileBlobs, copied_at: int
) -> None:
    """Records and blobs are copied one after the other, and a bucket not at all."""
    job = await with_result(records, blobs)
    for _ in range(copied_at):
        job = await fabric.jobs.revoke_links(job, ANONYMOUS)
    blobs.path(result_of(job)).rename(blobs.path(result_name(job.id, 1, 3)))
    await sweep_strays(records, blobs)
    now = await on_record(records, job)
    assert now.revocations == 3
    assert (await fabric.jobs.status(now, "http://here")).status is ClientStatus.COMPLETED


# -- deleting ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("revocations", [0, 2])
async def test_a_deleted_result_is_gone_and_counted_off_once(
    results: StoredResults, records: SqlRecordStore, blobs: FileBlobs, retired: list[Job], revocations: int
) -> None:
    job, other = await with_result(records, blobs), await with_result(records, blobs)
    for _ in range(revocations):
        await results.revoke_links(job, "user:u1")
    await asyncio.gather(*(results.delete(job, "user:u1") for _ in range(3)))
    assert await blobs.names() == [result_of(other)]
    assert [each.id for each in retired] == [job.id]
    assert (await acts(records, job))[revocations:] == ["result.deleted"]
    assert await records.stored_bytes() == {ANONYMOUS: 6}
    assert await refused(results.revoke_links(job, "user:u1")) is errors.RESULT_GONE


async def test_a_store_that_is_away_deletes_and_marks_nothing(
    records: SqlRecordStore, blobs: FileBlobs, retired: list[Job]
) -> None:
    job = await with_result(records, blobs)
    with pytest.raises(BlobsUnavailable):
        await StoredResults(records, Away(blobs.folder), retired.append).delete(job, "user:u1")
    assert (retired, await acts(records, job)) == ([], [])
    assert await records.stored_bytes() == {ANONYMOUS: 6}


async def test_revocations_and_deletions_at_once_leave_nothing(
    results: StoredResults, records: SqlRecordStore, blobs: FileBlobs, retired: list[Job]
) -> None:
    job = await with_result(records, blobs)
    periods = Retention(0.0, 1e9)
    ends = await asyncio.gather(
        *(results.revoke_links(job, "user:u1") for _ in range(5)),
        results.delete(job, "user:u1"),
        retire_some(records, blobs, periods, retired.append, time.time() + 1),
        *(results.revoke_links(job, "user:u1") for _ in range(5)),
        return_exceptions=True,
    )
    failed = [end for end in ends if isinstance(end, BaseException)]
    assert {type(end) for end in failed} <= {NotFound}, failed
    await retire_some(records, blobs, periods, retired.append, time.time() + 1)
    await sweep_strays(records, blobs)
    assert await blobs.names() == []
    assert await records.without_blobs([job.id]) == {job.id}


@EITHER
@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING])
async def test_a_job_that_has_not_ended_is_left_alone(
    asked: Asked, state: JobState, results: StoredResults, records: SqlRecordStore, blobs: FileBlobs
) -> None:
    job = Job(new_job_id(), ANONYMOUS, ModelId("m/one"), "k", False, {}, 1, 1.0)
    await records.add_job(job)
    blobs.path(payload_name(job.id)).write_bytes(b"payload")
    if state is JobState.RUNNING:
        await records.begin_attempt(Attempt(job.id, 1, "a1", "r1", 1.0, 2.0))
    assert await refused(asked(results, await on_record(records, job), "user:u1")) is errors.STATE_CONFLICT
    assert (await blobs.names(), await acts(records, job)) == ([payload_name(job.id)], [])


async def test_a_failed_job_has_no_links_and_may_be_cleared(
    results: StoredResults, records: SqlRecordStore
) -> None:
    job = Job(new_job_id(), ANONYMOUS, ModelId("m/one"), "k", False, {}, 1, 1.0)
    await records.add_job(job)
    await records.end_job(job.id, Ending(JobState.FAILED), now=2.0, attempt=None, outcome=None)
    job = await on_record(records, job)
    assert await refused(results.revoke_links(job, "user:u1")) is errors.STATE_CONFLICT
    await results.delete(job, "user:u1")
    assert await acts(records, job) == ["result.deleted"]


# -- over HTTP -----------------------------------------------------------------------------------------
async def _link(gateway: httpx.AsyncClient, job: Job, key: str) -> str:
    answer = (await gateway.get(f"/response/{job.id}", headers={"ndif-api-key": key})).json()
    return str(answer["data"])


async def test_a_link_that_was_revoked_and_one_whose_result_is_gone_are_told_apart(
    gateway: httpx.AsyncClient, records: SqlRecordStore, blobs: FileBlobs, fabric: Fabric
) -> None:
    key, _ = await add_key(records)
    job = await with_result(records, blobs, ADA)
    path, mine = f"/edif/v1/jobs/{job.id}", {"ndif-api-key": key}
    first = await _link(gateway, job, key)
    assert (await gateway.get(first)).content == b"result"
    answer = await gateway.post(f"{path}/revoke-links", headers=mine)
    assert (answer.status_code, answer.json()) == (200, {"id": job.id, "revocations": 1})
    told = await gateway.get(first)
    assert (told.status_code, told.json()["code"]) == (403, errors.LINK_INVALID.code)
    assert "was revoked" in told.json()["detail"]
    assert f"edif.job('{job.id}').result()" in told.json()["detail"]
    second = await _link(gateway, job, key)
    assert (await gateway.get(second)).content == b"result"
    answer = await gateway.delete(f"{path}/result", headers=mine)
    assert (answer.status_code, answer.json()) == (200, {"id": job.id, "deleted": True})
    for link in (first, second):
        told = await gateway.get(link)
        assert (told.status_code, told.json()["code"]) == (410, errors.RESULT_GONE.code)
    assert (await gateway.delete(f"{path}/result", headers=mine)).status_code == 200
    gone = await gateway.post(f"{path}/revoke-links", headers=mine)
    assert (gone.status_code, gone.json()["code"]) == (410, errors.RESULT_GONE.code)


@pytest.mark.parametrize(("method", "end"), [("POST", "revoke-links"), ("DELETE", "result")])
async def test_only_the_owner_and_an_operator_may(
    gateway: httpx.AsyncClient, records: SqlRecordStore, blobs: FileBlobs, method: str, end: str
) -> None:
    await add_key(records)
    other, _ = await add_key(records, EVE)
    job = await with_result(records, blobs, ADA)
    path = f"/edif/v1/jobs/{job.id}/{end}"
    assert (await gateway.request(method, path)).status_code == 401
    answer = await gateway.request(method, path, headers={"ndif-api-key": other})
    assert (answer.status_code, answer.json()["code"]) == (404, errors.JOB_UNKNOWN.code)
    assert await blobs.names() == [result_of(job)]
    answer = await gateway.request(method, path, headers={"ndif-api-key": TOKENS.operator})
    assert answer.status_code == 200
    assert await blobs.names() != [result_of(job)]


async def test_a_link_to_nobodys_blob_is_gone(results: StoredResults) -> None:
    assert isinstance(await results.why_gone("result/j1-1"), NotFound)
    assert isinstance(await results.why_gone("payload/j1"), NotFound)


async def test_a_payload_that_is_gone_is_not_told_as_revoked(
    results: StoredResults, records: SqlRecordStore, blobs: FileBlobs
) -> None:
    job = await with_result(records, blobs)
    assert isinstance(await results.why_gone(payload_name(job.id)), NotFound)
    await results.revoke_links(job, "user:u1")
    assert isinstance(await results.why_gone(result_name(job.id, 1)), AuthRefused)
