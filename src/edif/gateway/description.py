"""How a route is described: the words in which ``described`` beside each group of routes is written, and what
becomes of them, an OpenAPI 3.1 document.

An operation names its successes and its own errors; what every route can answer (a head that comes too slowly, a
crash) and what follows from who may ask is added here.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import msgspec

from edif import __version__
from edif.core import errors
from edif.core.errors import ErrorCode

JSON = "application/json"
BYTES = "application/octet-stream"

_ANYWHERE = (
    errors.REQUEST_MALFORMED,
    errors.REQUEST_TIMEOUT,
    errors.URL_TOO_LONG,
    errors.HEADERS_TOO_LARGE,
    errors.INTERNAL,
    errors.CONNECTIONS_FULL,
)
_KEY = (
    errors.KEY_MISSING,
    errors.KEY_UNKNOWN,
    errors.KEY_EXPIRED,
    errors.KEY_REVOKED,
    errors.RATE_LIMITED,
)

_STORE = (errors.STORAGE_FULL, errors.STORE_UNREACHABLE, errors.LEAD_LOST)


class Asks(Enum):
    """Who may ask: the security schemes of the document, and the errors that come with each."""

    ANYBODY = ()
    ANYBODY_OR_KEY = (*_KEY,)
    """Open and limited by address; with a key when the operator has closed it."""
    KEY = (*_KEY, *_STORE)
    OPERATOR = (*_KEY, *_STORE, errors.ROLE_TOO_LOW)
    WORKER = (errors.KEY_UNKNOWN, errors.RATE_LIMITED)
    LINK = (errors.LINK_INVALID,)

    @property
    def security(self) -> list[dict[str, list[str]]]:
        key: list[dict[str, list[str]]] = [{"key": []}, {"bearer": []}]
        match self:
            case Asks.ANYBODY | Asks.LINK:
                return []
            case Asks.ANYBODY_OR_KEY:
                return [{}, *key]
            case Asks.WORKER:
                return [{"worker": []}]
        return key


@dataclass(frozen=True, slots=True)
class Answer:
    """A success: its status, what it means, and the type of its body, None for bytes and text."""

    means: str
    body: Any = None
    status: int = 200
    media: str = JSON
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Parameter:
    """A part of the path, the query or the header; those of the path may be left out where a text will do."""

    name: str
    means: str
    schema: dict[str, Any]
    place: Literal["path", "query", "header"] = "query"
    required: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one route.

    Attributes:
        path: as OpenAPI writes it, ``/jobs/{id}``; a part may hold slashes where the route's does.
        fails: the errors that are its own.
        takes: the body, by media type: a type, or a schema.
        plain_fails: statuses that the file server below it answers in plain text, with their meaning.
    """

    method: str
    path: str
    means: str
    asks: Asks
    answers: tuple[Answer, ...]
    fails: tuple[ErrorCode, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    takes: tuple[str, Any] | None = None
    plain_fails: tuple[tuple[int, str], ...] = ()

    @property
    def path_names(self) -> list[str]:
        return [part.partition("}")[0] for part in self.path.split("{")[1:]]


def openapi(operations: Sequence[Operation]) -> dict[str, Any]:
    """The document."""
    types = [
        answer.body for operation in operations for answer in operation.answers if answer.body is not None
    ]
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for operation in operations:
        paths[operation.path][operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "eDIF",
            "version": __version__,
            "description": "The HTTP routes of a fabric. Its WebSockets, /subscribe among them, stand in docs/protocol.md.",
        },
        "paths": dict(paths),
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "ndif-api-key"},
                "bearer": {"type": "http", "scheme": "bearer", "description": "The same key."},
                "worker": {"type": "http", "scheme": "bearer", "description": "The worker token."},
            },
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.means,
        "operationId": _name(operation),
        "security": operation.asks.security,
        "responses": _responses(operation),
    }
    if parameters := _parameters(operation):
        described["parameters"] = parameters
    if operation.takes is not None:
        media, schema = operation.takes
        described["requestBody"] = {"required": True, "content": {media: {"schema": schema}}}
    return described


def _name(operation: Operation) -> str:
    words = operation.path.replace("{", "").replace("}", "").replace(".", "/").split("/")
    return "_".join([operation.method.lower(), *filter(None, words)])


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    given = {parameter.name: parameter for parameter in operation.parameters}
    text = {"type": "string", "minLength": 1}
    for name in operation.path_names:
        given.setdefault(name, Parameter(name, "", text, "path", required=True))
    return [
        {
            "name": parameter.name,
            "in": parameter.place,
            "required": parameter.required,
            "schema": parameter.schema,
            **({"description": parameter.means} if parameter.means else {}),
        }
        for parameter in given.values()
    ]


def _responses(operation: Operation) -> dict[str, Any]:
    bodyless = operation.method == "HEAD"
    responses = {str(answer.status): _success(answer, bodyless=bodyless) for answer in operation.answers}
    own = operation.fails + operation.asks.value
    by_status: dict[int, list[ErrorCode]] = defaultdict(list)
    if operation.path_names:  # a part of the path that holds slashes leads to no route, or to another one
        own += (errors.ROUTE_UNKNOWN,)
        by_status[405].append(errors.REQUEST_INVALID)
    for kind in dict.fromkeys([*own, *_ANYWHERE]):
        by_status[kind.http_status].append(kind)
    for status, kinds in sorted(by_status.items()):
        responses[str(status)] = _failure(kinds, bodyless=bodyless)
    for status, means in operation.plain_fails:
        described = responses.setdefault(str(status), {"description": means})
        if not bodyless:
            described.setdefault("content", {})["text/plain"] = {"schema": {"type": "string"}}
    return responses


def _success(answer: Answer, *, bodyless: bool) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.means}
    if not bodyless:
        described["content"] = {answer.media: {} if answer.body is None else {"schema": _schema(answer.body)}}
    if answer.headers:
        described["headers"] = {name: {"schema": {"type": "string"}} for name in answer.headers}
    return described


def _schema(body: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([body], ref_template="#/components/schemas/{name}")
    return schema


def _failure(kinds: Iterable[ErrorCode], *, bodyless: bool) -> dict[str, Any]:
    codes = [kind.code for kind in kinds]
    steps = "\n".join(f"- `{kind.code}`: {kind.next_step}" for kind in kinds)
    described: dict[str, Any] = {"description": steps}
    if not bodyless:
        schema = {
            "type": "object",
            "properties": {"detail": {"type": "string"}, "code": {"enum": codes}},
            "required": ["detail", "code"],
            "additionalProperties": False,
        }
        described["content"] = {JSON: {"schema": schema}}
    if errors.RATE_LIMITED in kinds:
        described["headers"] = {
            "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
        }
    return described
