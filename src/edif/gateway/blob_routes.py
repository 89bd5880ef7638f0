"""Signed links to payloads and results, with ranges."""

import re
import time
from pathlib import Path

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from edif.blobs.file_blobs import FileBlobs
from edif.blobs.store import KINDS
from edif.core import errors
from edif.core.errors import AuthRefused, NotFound, OverLimit, Refused
from edif.core.limits import MIB
from edif.gateway.description import BYTES, Answer, Asks, Operation, Parameter
from edif.gateway.edge import Edge, bounded_body, edge_of, json_answer
from edif.gateway.sending import EXTENSION

router = APIRouter(prefix="/edif/v1/blobs")


@router.api_route("/{kind}/{blob_id}", methods=["GET", "HEAD"])
async def get_blob(request: Request, kind: str, blob_id: str) -> Response:
    edge = edge_of(request)
    name = _name(kind, blob_id)
    _check(request, "get", name)
    if not isinstance(edge.blobs, FileBlobs):
        raise AuthRefused(errors.LINK_INVALID, "This link is from before results were kept elsewhere.")
    path = edge.blobs.path(name)
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise await edge.fabric.stored_results.why_gone(name) from None
    # A blob never changes under its name, so clients may resume by range and caches may keep it.
    headers = {"cache-control": "private, immutable", "etag": f'"{blob_id}"'}
    if headers["etag"] in _tags(request):
        return Response(status_code=304, headers=headers)
    _check_range(request, size)
    return _Blob(path, media_type="application/octet-stream", headers=headers)


class _Blob(FileResponse):
    """Sent by the kernel where the connection allows it; else read in pieces that cost little beside what they carry: each is a turn of the loop and one of a
    thread.
    """

    chunk_size = MIB
    _by_kernel = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._by_kernel = EXTENSION in scope.get("extensions", {})
        await super().__call__(scope, receive, send)

    async def _handle_simple(self, send: Send, send_header_only: bool, send_pathsend: bool) -> None:
        if send_header_only or not self._by_kernel:
            await super()._handle_simple(send, send_header_only, send_pathsend)
        else:
            await self._send_part(send, 0, int(self.headers["content-length"]), {})

    async def _handle_single_range(
        self, send: Send, start: int, end: int, file_size: int, send_header_only: bool
    ) -> None:
        if send_header_only or not self._by_kernel:
            await super()._handle_single_range(send, start, end, file_size, send_header_only)
        else:
            self.status_code = 206
            told = {
                "content-range": f"bytes {start}-{end - 1}/{file_size}",
                "content-length": str(end - start),
            }
            await self._send_part(send, start, end, told)

    async def _send_part(self, send: Send, start: int, end: int, told: dict[str, str]) -> None:
        self.headers.update(told)
        with Path(self.path).open("rb", buffering=0) as file:  # noqa: ASYNC230 - to open it waits for no disk
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            await send(
                {"type": EXTENSION, "file": file, "offset": start, "count": end - start, "more_body": False}
            )


def _tags(request: Request) -> set[str]:
    """What the client says it has already, as in RFC 9110, 13.1.2."""
    named = request.headers.get("if-none-match", "").split(",")
    return {tag.strip().removeprefix("W/") for tag in named}


def _check_range(request: Request, size: int) -> None:
    asked = re.fullmatch(r"bytes=(\d{1,19})-\d*", request.headers.get("range", ""))
    if asked is not None and int(asked[1]) >= size and "if-range" not in request.headers:
        raise Refused(
            errors.RANGE_OUTSIDE, f"This blob has {size} bytes, and was asked for those from {asked[1]} on."
        )


@router.put("/{kind}/{blob_id}")
async def put_blob(request: Request, kind: str, blob_id: str) -> Response:
    edge = edge_of(request)
    name = _name(kind, blob_id)
    _check(request, "put", name)
    limit = edge.fabric.config.limits.result_bytes
    try:
        size = await edge.blobs.put(name, bounded_body(request, limit), limit_bytes=limit)
    except Refused as error:
        if error.kind is errors.STORAGE_FULL and _may_fit_later(edge, request):
            raise OverLimit(
                errors.STORAGE_LOW, "The fabric's disk is full; the result is taken when there is room again."
            ) from error
        raise
    return json_answer(b'{"size_bytes": %d}' % size)


def _may_fit_later(edge: Edge, request: Request) -> bool:
    """Whether a result that found no room is not itself to blame: the disk is full without it, or has been freed by now."""
    free = edge.blobs.free_bytes()
    size = request.headers.get("content-length", "")
    return free < max(edge.config.min_free_bytes, MIB) or (size.isdecimal() and int(size) < free)


def _name(kind: str, blob_id: str) -> str:
    """The blob that the path names; the signature says whether it may be had."""
    if kind not in KINDS or not re.fullmatch(r"[A-Za-z0-9-]{1,80}", blob_id):
        raise NotFound(errors.ROUTE_UNKNOWN, "There is no such blob.")
    return f"{kind}/{blob_id}"


def _check(request: Request, purpose: str, name: str) -> None:
    query = request.query_params
    if query.get("purpose") != purpose:
        purpose = "none"  # signed for something else: the check below refuses it
    edge_of(request).fabric.signer.check(
        purpose, name, query.get("expires", ""), query.get("signature", ""), time.time()
    )


class Stored(msgspec.Struct):
    size_bytes: int


_PARTS = (
    Parameter("kind", "What it is.", {"enum": sorted(KINDS)}, "path", required=True),
    Parameter("purpose", "What it is signed for.", {"enum": ["get", "put"]}, required=True),
    Parameter("expires", "Until when, in Unix seconds.", {"type": "string"}, required=True),
    Parameter("signature", "HMAC of the rest.", {"type": "string"}, required=True),
)
_PATH = "/edif/v1/blobs/{kind}/{blob_id}"

described = [
    *(
        Operation(
            method,
            _PATH,
            "A payload or result, by signed link.",
            Asks.LINK,
            (
                Answer("All of it.", media=BYTES, headers=("etag", "accept-ranges")),
                Answer("The range that was asked for.", status=206, media=BYTES),
                Answer("The client has it already, as `If-None-Match` says.", status=304, media=BYTES),
            ),
            fails=(errors.RESULT_GONE, errors.RANGE_OUTSIDE, errors.STORE_UNREACHABLE),
            parameters=(*_PARTS, Parameter("range", "Bytes, to resume.", {"type": "string"}, "header")),
            plain_fails=((400, "The range does not parse."), (416, "None of several ranges lies inside.")),
        )
        for method in ("GET", "HEAD")
    ),
    Operation(
        "PUT",
        _PATH,
        "Store a result: for node agents, by signed link.",
        Asks.LINK,
        (Answer("It is stored.", Stored),),
        fails=(errors.BODY_TOO_LARGE, errors.STORAGE_LOW, errors.STORAGE_FULL, *errors.BLOBS_AWAY),
        parameters=_PARTS,
        takes=(BYTES, {}),
    ),
]
