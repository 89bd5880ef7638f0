"""The gateway's ASGI application."""

import re

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Mount

from edif.core import errors
from edif.core.errors import EdifError, Refused
from edif.gateway import blob_routes, client_routes, hub_routes, legacy_routes, own_routes, worker_routes
from edif.gateway.description import openapi
from edif.gateway.edge import Edge, answer_crash, answer_error, answer_unknown_route, json_answer
from edif.gateway.refusals import PacedRefusals
from edif.records.store import RecordStore
from edif.wire.client_protocol import error_body

_GROUPS = (blob_routes, worker_routes, own_routes, hub_routes)
DESCRIBED = [operation for group in (client_routes, *_GROUPS) for operation in group.described]


def create_app(edge: Edge, records: RecordStore) -> Starlette:
    """The application over its state; nothing is started here.

    What every job passes - the client's routes and the worker link - is answered by plain Starlette; FastAPI,
    with all that it does for each message, serves our own API below it.
    """
    own = FastAPI(title="eDIF", docs_url=None, redoc_url=None, openapi_url=None)
    for module in (*_GROUPS, legacy_routes):
        own.include_router(module.router)
    description = msgspec.json.encode(openapi(DESCRIBED))

    async def describe(_: Request) -> Response:
        return json_answer(description)

    own.add_route("/edif/v1/openapi.json", describe)
    app = Starlette(routes=[*client_routes.routes, *worker_routes.link_routes, Mount("/", own)])
    app.add_middleware(PacedRefusals, pace=edge.refusals, proxies=edge.config.trusted_proxies)
    for each in (app, own):
        each.state.edge = edge
        each.state.records = records
        each.add_exception_handler(EdifError, _answer)
        each.add_exception_handler(HTTPException, _http_exception)
        each.add_exception_handler(RequestValidationError, _invalid)
        each.add_exception_handler(Exception, answer_crash)
    return app


# Handlers are coroutines, though they wait for nothing: Starlette would run plain functions in the threads that files need.
async def _answer(request: Request, error: Exception) -> Response:
    assert isinstance(error, EdifError)
    if request.url.path.startswith("/hub/"):
        return hub_routes.hub_error(request, error)
    return answer_error(request, error)


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # A 404 may come from the application below, which is asked where no route above fits wholly.
    if error.status_code == 405 or (error.status_code == 404 and _has_other_method(request)):
        methods = _methods_of(request.url.path)
        refused = Refused(errors.REQUEST_INVALID, f"This route takes {methods} only.")
        answer = json_answer(error_body(refused), 405)
        answer.headers["allow"] = methods
        return answer
    if error.status_code == 404:
        return answer_unknown_route(request, error)
    return json_answer(error_body(Refused(errors.REQUEST_INVALID, f"{error.detail}.")), error.status_code)


def _has_other_method(request: Request) -> bool:
    """Whether a client route has this path, with another method."""
    return any(route.matches(request.scope)[0] is Match.PARTIAL for route in client_routes.routes)


_PATHS = [(operation.method, re.compile(re.sub(r"{\w+}", ".+", operation.path))) for operation in DESCRIBED]


def _methods_of(path: str) -> str:
    """The methods with which this path is described, as ``Allow`` lists them."""
    return ", ".join(sorted({method for method, pattern in _PATHS if pattern.fullmatch(path)}))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return answer_error(request, Refused(errors.REQUEST_INVALID, f"{where}: {first['msg']}."))
