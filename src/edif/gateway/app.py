"""The gateway's ASGI application."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Mount

from edif.core import errors
from edif.core.errors import EdifError, Refused
from edif.gateway import blob_routes, client_routes, hub_routes, legacy_routes, own_routes, worker_routes
from edif.gateway.edge import Edge, answer_crash, answer_error, answer_unknown_route, json_answer
from edif.records.store import RecordStore
from edif.wire.client_protocol import error_body


def create_app(edge: Edge, records: RecordStore) -> Starlette:
    """The application over its state; nothing is started here.

    What every job passes - the client's routes and the worker link - is answered by plain Starlette; FastAPI,
    with all that it does for each message, serves our own API below it.
    """
    own = FastAPI(title="eDIF", docs_url=None, redoc_url=None, openapi_url=None)
    for module in (blob_routes, worker_routes, own_routes, hub_routes, legacy_routes):
        own.include_router(module.router)
    app = Starlette(routes=[*client_routes.routes, *worker_routes.link_routes, Mount("/", own)])
    for each in (app, own):
        each.state.edge = edge
        each.state.records = records
        each.add_exception_handler(EdifError, _answer)
        each.add_exception_handler(HTTPException, _http_exception)
        each.add_exception_handler(RequestValidationError, _invalid)
        each.add_exception_handler(Exception, answer_crash)
    return app


def _answer(request: Request, error: Exception) -> Response:
    assert isinstance(error, EdifError)
    if request.url.path.startswith("/hub/"):
        return hub_routes.hub_error(request, error)
    return answer_error(request, error)


def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404 and not _has_other_method(request):
        return answer_unknown_route(request, error)
    if error.status_code == 404:  # the application below, which was asked because no route above fits wholly
        error = HTTPException(405)
    body = error_body(Refused(errors.REQUEST_INVALID, f"{error.detail}."))
    return json_answer(body, error.status_code)


def _has_other_method(request: Request) -> bool:
    """Whether a client route has this path, with another method."""
    return any(route.matches(request.scope)[0] is Match.PARTIAL for route in client_routes.routes)


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return answer_error(request, Refused(errors.REQUEST_INVALID, f"{where}: {first['msg']}."))
