"""The application as a whole: what two applications under one roof must not change."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

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
