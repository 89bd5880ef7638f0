"""The API's description lists what the applications answer, neither more nor less."""

import re
from pathlib import Path

import httpx
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route

from edif.core import errors
from edif.gateway.app import DESCRIBED, create_app
from edif.gateway.description import openapi
from edif.gateway.hub import HubMirror
from edif.records.sql_store import SqlRecordStore
from tests.unit.gateway.conftest import EdgeMaker


def answered(routes: list[BaseRoute]) -> set[tuple[str, str]]:
    """Method and path of every HTTP route. Starlette answers HEAD wherever it answers GET; that is not described."""
    found: set[tuple[str, str]] = set()
    for route in routes:
        if isinstance(route, Mount):
            assert isinstance(route.app, Starlette)
            found |= answered(route.app.routes)
        elif hasattr(route, "original_router"):  # how newer releases of FastAPI keep included routes
            found |= answered(route.original_router.routes)
        elif isinstance(route, Route | APIRoute):
            methods = set(route.methods or ())
            if not isinstance(route, APIRoute):
                methods -= {"HEAD"}
            found |= {(method, re.sub(r":\w+}", "}", route.path)) for method in methods}
    return found


def test_every_route_is_described_and_nothing_else(
    edge_with: EdgeMaker, records: SqlRecordStore, tmp_path: Path
) -> None:
    app = create_app(edge_with(HubMirror(tmp_path / "hub", None)), records)
    described = [(operation.method, operation.path) for operation in DESCRIBED]
    assert set(described) == answered(list(app.routes))
    assert len(described) == len(set(described))


async def test_the_description_is_served_to_anybody(
    edge_with: EdgeMaker, records: SqlRecordStore, tmp_path: Path
) -> None:
    app = create_app(edge_with(HubMirror(tmp_path / "hub", None)), records)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://elsewhere") as client:
        answer = await client.get("/edif/v1/openapi.json")
    assert answer.json() == openapi(DESCRIBED)
    assert answer.json()["openapi"] == "3.1.0"


def test_every_failure_has_its_codes_and_their_next_steps() -> None:
    document = openapi(DESCRIBED)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert "500" in operation["responses"]
            for status, response in operation["responses"].items():
                if (
                    int(status) < 400
                    or status == "405"
                    or method == "head"
                    or "application/json" not in response["content"]
                ):
                    continue
                codes = response["content"]["application/json"]["schema"]["properties"]["code"]["enum"]
                for code in codes:
                    kind = errors.catalogue()[code]
                    assert str(kind.http_status) == status, (path, code)
                    assert kind.next_step in response["description"]
