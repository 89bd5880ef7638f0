"""What clients are told, and what becomes of their jobs, while a database is away: PostgreSQL behind a bad network."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from edif.blobs.file_blobs import FileBlobs
from edif.blobs.store import payload_name
from edif.core import errors
from edif.core.errors import StoreUnavailable
from edif.core.ids import ANONYMOUS, ModelId, new_job_id
from edif.core.job import ClientStatus, Job, JobState
from edif.gateway import conductor
from edif.gateway.app import create_app
from edif.gateway.fabric import Fabric
from edif.gateway.hub import HubMirror
from edif.records.migrate import open_store
from edif.records.sql_store import SqlRecordStore
from edif.wire.client_protocol import StatusFrame
from tests.servers.cutter import Cut, Cutter, cutter
from tests.servers.postgres import PostgresServer
from tests.unit.gateway.conftest import EdgeMaker


@pytest.fixture
async def network(postgres: PostgresServer) -> AsyncIterator[Cutter]:
    async with cutter(postgres.new_database()) as made:
        yield made


@pytest.fixture
async def records(network: Cutter, tmp_path: Path) -> AsyncIterator[SqlRecordStore]:
    store = await open_store(tmp_path, network.url, leading=True)
    yield store
    await store.close()


@pytest.fixture(autouse=True)
def without_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conductor, "STORE_RETRY_S", 0.01)


@pytest.fixture
async def client(
    edge_with: EdgeMaker, records: SqlRecordStore, tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(edge_with(HubMirror(tmp_path / "hub", None)), records)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        yield client


def a_job_with_payload(blobs: FileBlobs, **changes: str) -> Job:
    job = Job(new_job_id(), ANONYMOUS, ModelId("m/one"), "key", False, {}, 1, time.time(), **changes)  # type: ignore[arg-type]
    blobs.path(payload_name(job.id)).write_bytes(b"payload")
    return job


async def accept(fabric: Fabric, job: Job) -> StatusFrame:
    return await fabric.jobs.accept(job, subscriber=None, base_url="", received=time.monotonic())


@pytest.mark.parametrize("how", Cut)
async def test_job_in_doubt_is_settled_before_the_client_is_told(
    how: Cut, fabric: Fabric, records: SqlRecordStore, blobs: FileBlobs, network: Cutter
) -> None:
    job = a_job_with_payload(blobs)
    network.next_cut = how
    assert (await accept(fabric, job)).status is ClientStatus.RECEIVED
    assert [(each.id, each.state) for each in await records.jobs()] == [(job.id, JobState.QUEUED)]
    assert await blobs.size(payload_name(job.id)) is not None


async def test_job_in_doubt_waits_for_the_database_with_its_payload(
    fabric: Fabric, records: SqlRecordStore, blobs: FileBlobs, network: Cutter
) -> None:
    job = a_job_with_payload(blobs)
    network.next_cut = Cut.AFTER_COMMIT
    accepting = asyncio.create_task(accept(fabric, job))
    while network.next_cut is not None:
        await asyncio.sleep(0.001)
    network.down = True
    await asyncio.wait([accepting], timeout=0.2)
    assert await blobs.size(payload_name(job.id)) is not None
    network.down = False
    assert (await accepting).status is ClientStatus.RECEIVED
    assert [each.id for each in await records.jobs()] == [job.id]


async def test_job_that_surely_was_not_recorded_is_refused_and_its_payload_deleted(
    fabric: Fabric, records: SqlRecordStore, blobs: FileBlobs, network: Cutter
) -> None:
    job = a_job_with_payload(blobs)
    network.down = True
    with pytest.raises(StoreUnavailable) as refused:
        await accept(fabric, job)
    assert refused.value.kind is errors.STORE_UNREACHABLE
    assert await blobs.size(payload_name(job.id)) is None
    network.down = False
    assert await records.jobs() == []


async def test_repeated_request_in_doubt_is_the_first_ones_job(
    fabric: Fabric, records: SqlRecordStore, blobs: FileBlobs, network: Cutter
) -> None:
    first, second = (a_job_with_payload(blobs, client_key="once") for _ in range(2))
    network.next_cut = Cut.AFTER_COMMIT
    await accept(fabric, first)
    network.next_cut = Cut.BEFORE_COMMIT
    assert (await accept(fabric, second)).id == first.id
    assert [each.id for each in await records.jobs()] == [first.id]
    assert await blobs.size(payload_name(first.id)) is not None
    assert await blobs.size(payload_name(second.id)) is None


@pytest.mark.parametrize("path", ["/response/j1", "/edif/v1/jobs", "/whoami"])
async def test_routes_that_need_the_records_say_that_they_are_away(
    path: str, client: httpx.AsyncClient, network: Cutter
) -> None:
    network.down = True
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unreachable")
    network.down = False
    assert (await client.get(path)).status_code in (200, 404)
