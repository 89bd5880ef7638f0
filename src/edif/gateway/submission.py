"""``POST /request``: what a client hands in, checked and stored before it is a job."""

import time
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from edif.blobs.store import payload_name
from edif.core import errors
from edif.core.errors import OverLimit, Refused
from edif.core.ids import ModelId, new_job_id
from edif.core.job import Job
from edif.core.limits import MIB
from edif.gateway.description import JSON, Answer, Asks, Operation, Parameter
from edif.gateway.edge import Edge, base_url, bounded_body, edge_of, json_answer
from edif.wire import client_protocol
from edif.wire.client_protocol import ZSTD_MAGIC, ClientVersions, Envelope, StatusFrame, encode_frame
from edif.wire.zstd import declared_size

_ENVELOPE_BYTES = MIB
_CLIENT_KEY_LENGTH = 100


async def submit(request: Request) -> Response:
    edge = edge_of(request)
    notes = _check_client(request, edge)
    identity = await edge.auth.identify(request)
    client_key = _client_key(request)
    if client_key is not None:
        # What was accepted once is not refused later, however full queue, quota or disk are by now.
        known = await edge.fabric.jobs.sent_before(identity.name, client_key)
        if known is not None:
            return json_answer(encode_frame(await edge.fabric.jobs.status(known, base_url(request))))
    edge.fabric.jobs.check_quota(identity.name)  # before the body is read
    _check_space(edge)
    envelope, blob = await _read_form(request, edge)
    received = time.monotonic()
    spec = edge.fabric.catalogue.match(envelope.model_key, envelope.env).spec
    await edge.fabric.jobs.check_uses(envelope.edif.uses, identity.name)
    subscriber = None
    if envelope.session_id:
        subscriber = edge.subscribers.get(envelope.session_id, identity.name)
        if subscriber is None:
            raise Refused(errors.SESSION_UNKNOWN, "The request names a status socket that is not open.")
    job = Job(
        id=new_job_id(),
        owner=identity.name,
        model=ModelId(spec.id),
        model_key=envelope.model_key,
        compress=envelope.compress,
        env=envelope.env,
        extras=envelope.edif,
        payload_bytes=blob.size or 0,
        created_at=time.time(),
        client_key=client_key,
    )
    await _store_payload(edge, job, blob, compressed=envelope.compress)
    frame = await edge.fabric.jobs.accept(
        job, sender=identity.id, subscriber=subscriber, base_url=base_url(request), received=received
    )
    for note in notes:
        edge.fabric.jobs.note(job.id, note)
    return json_answer(encode_frame(frame))


def _check_client(request: Request, edge: Edge) -> list[str]:
    if "nnsight-model-key" in request.headers:
        raise client_protocol.too_old_client(request.headers.get("nnsight-version", ""))
    versions = ClientVersions(
        request.headers.get("nnsight-version", ""), request.headers.get("python-version", "")
    )
    return client_protocol.check_versions(versions, edge.fabric.overview.serving_python)


def _client_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and len(key) > _CLIENT_KEY_LENGTH:
        raise Refused(
            errors.REQUEST_INVALID,
            f"The idempotency key has {len(key)} characters.",
            f"Use at most {_CLIENT_KEY_LENGTH}.",
        )
    return key


def _check_space(edge: Edge) -> None:
    free = edge.blobs.free_bytes()
    if free < edge.config.min_free_bytes:
        raise OverLimit(errors.STORAGE_LOW, f"The fabric has only {free / 2**20:.0f} MiB of disk left.")


async def _read_form(request: Request, edge: Edge) -> tuple[Envelope, UploadFile]:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Refused(errors.BODY_NOT_MULTIPART, "The request is not multipart/form-data with a boundary.")
    if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        # Fields would be decoded in it, and of the codecs that Python knows some take minutes for a megabyte.
        raise Refused(errors.BODY_NOT_MULTIPART, "The form is in another charset than UTF-8.")
    limit = edge.fabric.config.limits.payload_bytes + _ENVELOPE_BYTES
    parser = MultiPartParser(
        request.headers,
        bounded_body(request, limit),
        max_files=1,
        max_fields=4,
        max_part_size=_ENVELOPE_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(
            errors.BODY_TRUNCATED, f"The multipart body does not parse: {error.message}."
        ) from error
    except ClientDisconnect as error:
        raise Refused(errors.BODY_TRUNCATED, "The upload broke off.") from error
    text, blob = form.get("data"), form.get("blob")
    if not isinstance(text, str):
        raise Refused(errors.ENVELOPE_INVALID, "The request has no form field `data`.")
    if not isinstance(blob, UploadFile):
        raise Refused(errors.BODY_TRUNCATED, "The request has no file `blob`, or it broke off.")
    return client_protocol.parse_envelope(text), blob


async def _store_payload(edge: Edge, job: Job, blob: UploadFile, *, compressed: bool) -> None:
    limits = edge.fabric.config.limits
    if compressed:
        head = await blob.read(32)
        await blob.seek(0)
        if not head.startswith(ZSTD_MAGIC):
            raise Refused(errors.PAYLOAD_NOT_ZSTD, "The request says `compress`, but its blob is not zstd.")
        size = declared_size(head)
        if size is not None and size > limits.payload_expanded_bytes:
            raise OverLimit(
                errors.PAYLOAD_BOMB,
                f"The payload expands to {size / 2**20:.0f} MiB, more than the "
                f"{limits.payload_expanded_bytes / 2**20:.0f} MiB that this fabric takes.",
            )

    async def chunks() -> Any:
        while chunk := await blob.read(MIB):
            yield chunk

    await edge.blobs.put(payload_name(job.id), chunks(), limit_bytes=limits.payload_bytes)


described = Operation(
    "POST",
    "/request",
    "Hand in a job.",
    Asks.KEY,
    (Answer("It is on disk, and will end whatever happens.", StatusFrame),),
    fails=(
        errors.REQUEST_INVALID,
        errors.CLIENT_TOO_OLD,
        errors.CLIENT_UNSUPPORTED,
        errors.PYTHON_UNSUPPORTED,
        errors.STORAGE_LOW,
        errors.STORAGE_FULL,
        *errors.BLOBS_AWAY,
        errors.BODY_NOT_MULTIPART,
        errors.BODY_TRUNCATED,
        errors.BODY_TOO_LARGE,
        errors.ENVELOPE_INVALID,
        errors.MODEL_KEY_INVALID,
        errors.MODEL_NOT_SERVED,
        errors.ENV_NOT_ALLOWED,
        errors.SESSION_UNKNOWN,
        errors.PAYLOAD_NOT_ZSTD,
        errors.PAYLOAD_BOMB,
        errors.QUOTA_USED_UP,
        errors.JOB_UNKNOWN,
        errors.KEPT_GONE,
    ),
    parameters=(
        Parameter("nnsight-version", "The client's version.", {"type": "string"}, "header"),
        Parameter("python-version", "The client's Python.", {"type": "string"}, "header"),
        Parameter("idempotency-key", "The same job when it is sent again.", {"type": "string"}, "header"),
    ),
    takes=(
        "multipart/form-data",
        {
            "type": "object",
            "properties": {
                "data": {
                    "type": "string",
                    "contentMediaType": JSON,
                    "description": "model_key, session_id, compress, env: docs/protocol.md.",
                },
                "blob": {"type": "string", "format": "binary", "description": "What nnsight serialised."},
            },
            "required": ["data", "blob"],
        },
    ),
)
