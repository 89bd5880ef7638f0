"""The application as a whole: what two applications under one roof must not change."""

import asyncio
import platform
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from structlog.testing import capture_logs

from edif.core.ids import ANONYMOUS, ModelId, UserName, new_job_id
from edif.core.job import Job
from edif.core.quota import Measure, Scope
from edif.gateway import refusals
from edif.gateway.app import create_app
from edif.gateway.edge import Edge
from edif.gateway.hub import HubMirror
from edif.gateway.rates import Pace
from edif.records.sql_store import SqlRecordStore
from tests.unit.gateway.conftest import ADA, EdgeMaker, add_key


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
    monkeypatch.setattr(edge.fabric.overview, "models", lambda: 1 / 0)
    with capture_logs() as logs:
        answer = await client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "division" not in answer.text
    assert [entry["event"] for entry in logs] == ["gateway.crash"]


def client_of(app: Starlette, address: str = "127.0.0.1") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, client=(address, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long refusals were held back, without the wait and while no time passes."""
    waits: list[float] = []
    monkeypatch.setattr(refusals, "time", SimpleNamespace(monotonic=lambda: 100.0))

    async def note(seconds: float, *_: object) -> None:
        waits.append(seconds)

    monkeypatch.setattr(refusals, "_hold", note)
    return waits


async def test_refusals_of_strangers_wait_and_what_is_served_does_not(
    edge: Edge, records: SqlRecordStore, waits: list[float]
) -> None:
    async with client_of(create_app(replace(edge, refusals=Pace(2.0)), records)) as client:
        for _ in range(10):
            assert (await client.get("/nothing")).status_code == 404
        assert waits == []
        assert (await client.get("/ping")).status_code == 200
        assert waits == []
        for _ in range(3):
            assert (await client.get("/nothing")).status_code == 404
    assert [round(each, 1) for each in waits] == [0.5, 1.0, 1.5]


async def test_refusals_of_a_user_wait_wherever_they_come_from_and_others_do_not(
    edge: Edge, records: SqlRecordStore, waits: list[float]
) -> None:
    app = create_app(replace(edge, refusals=Pace(2.0)), records)
    keys = {}
    for name in (ADA, UserName("bob")):
        keys[name], _ = await add_key(records, name)
    addresses = iter(range(1, 100))

    async def ask(name: UserName) -> None:
        async with client_of(app, f"192.0.2.{next(addresses)}") as client:
            answer = await client.get("/response/unknown", headers={"ndif-api-key": keys[name]})
        assert answer.status_code == 404

    for _ in range(12):
        await ask(ADA)
    assert len(waits) == 2
    await ask(UserName("bob"))
    assert len(waits) == 2


async def test_nothing_is_held_for_a_client_that_has_gone() -> None:
    messages = iter([{"type": "http.request", "body": b"all"}, {"type": "http.disconnect"}])

    async def receive() -> dict[str, Any]:
        return next(messages)

    await asyncio.wait_for(refusals._hold(3600.0, {"type": "http"}, receive), 60)


async def test_the_rest_of_a_refused_body_is_not_read_while_its_answer_waits() -> None:
    read = []

    async def receive() -> dict[str, Any]:
        read.append(True)
        return {"type": "http.request", "body": b"part", "more_body": True}

    began = time.monotonic()
    await refusals._hold(0.2, {"type": "http"}, receive)
    assert time.monotonic() - began >= 0.2
    assert len(read) == 1


async def test_the_one_user_of_an_open_fabric_does_not_wait(
    edge: Edge, records: SqlRecordStore, waits: list[float]
) -> None:
    async with client_of(create_app(replace(edge, refusals=Pace(2.0)), records)) as client:
        for _ in range(12):
            assert (await client.get("/response/unknown")).status_code == 404
    assert waits == []


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
