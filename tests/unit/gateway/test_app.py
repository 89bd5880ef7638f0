"""The application as a whole: what two applications under one roof must not change."""

import platform
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from edif.core.ids import ANONYMOUS, ModelId, new_job_id
from edif.core.job import Job
from edif.core.quota import Measure, Scope
from edif.gateway.app import create_app
from edif.gateway.edge import Edge
from edif.gateway.hub import HubMirror
from edif.records.sql_store import SqlRecordStore
from tests.unit.gateway.conftest import EdgeMaker


@pytest.fixture
def edge(edge_with: EdgeMaker, tmp_path: Path) -> Edge:
    return edge_with(HubMirror(tmp_path / "hub", None))


@pytest.fixture
async def client(edge: Edge, records: SqlRecordStore) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(edge, records), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/request", 405),
        ("POST", "/status", 405),
        ("DELETE", "/edif/v1/jobs", 405),
        ("GET", "/nothing", 404),
        ("GET", "/edif/v1/nothing", 404),
        ("GET", "/ping", 200),
    ],
)
async def test_status_of_a_route(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == status
    assert status == 200 or answer.json()["code"]
    assert status != 405 or answer.headers["allow"] == {"/request": "POST"}.get(path, "GET")


@pytest.mark.parametrize("path", ["/status", "/edif/v1/models"])
async def test_a_crash_is_told_once_in_the_log_and_not_to_the_client(
    client: httpx.AsyncClient, edge: Edge, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(edge.fabric, "models", lambda: 1 / 0)
    with capture_logs() as logs:
        answer = await client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "division" not in answer.text
    assert [entry["event"] for entry in logs] == ["gateway.crash"]


def sent(key: str) -> dict[str, Any]:
    """A request of a client; without a body that anybody reads, for what comes before that."""
    versions = {"nnsight-version": "0.8.0", "python-version": platform.python_version()}
    return {"headers": {**versions, "idempotency-key": key}}


async def test_a_repeated_request_gets_its_job_though_the_quota_is_used_up(
    client: httpx.AsyncClient, edge: Edge, records: SqlRecordStore
) -> None:
    job = Job(new_job_id(), ANONYMOUS, ModelId("m/one"), "key", False, {}, 1, 1.0, client_key="once")
    await records.add_job(job)
    await records.set_quota(Scope.EACH_USER, "", Measure.QUEUED_JOBS, 0)
    await edge.fabric.recover()
    refused, repeated = (
        await client.post("/request", **sent("new")),
        await client.post("/request", **sent("once")),
    )
    assert (refused.status_code, refused.json()["code"]) == (429, "quota_used_up")
    assert (repeated.status_code, repeated.json()["id"]) == (200, job.id)


async def test_an_idempotency_key_has_a_length_that_every_store_takes(client: httpx.AsyncClient) -> None:
    answer = await client.post("/request", **sent("k" * 101))
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
