"""The protocol of the nnsight 0.8 client: the request's envelope, the status frames, the version gate.

Source: ``nnsight.schema`` and ``nnsight.intervention.backends.remote`` of nnsight 0.8.1; ``docs/protocol.md``
tells the whole exchange. Nothing here unpickles anything.
"""

import io
import json
import pickle  # noqa: TID251 - writes the push frame, never loads
import re
import zipfile
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from edif.core import errors
from edif.core.errors import EdifError, Refused
from edif.core.job import ClientStatus, Extras

SUPPORTED_NNSIGHT = (0, 8)
SUPPORTED_PYTHON = ((3, 10), (3, 13))

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class Envelope(msgspec.Struct, frozen=True):
    """The JSON form field ``data`` of ``POST /request``.

    Attributes:
        model_key: ``import.path.Class:{json}``; see :mod:`edif.models.model_key`.
        session_id: the id from ``/subscribe``; empty when the client will poll.
        compress: the blob is one zstd frame, and the result must be one.
        env: settings to apply to the model for this job only.
        edif: what only a client of eDIF's own sends.
    """

    model_key: str
    session_id: str = ""
    compress: bool = False
    env: dict[str, Any] = {}
    edif: Extras = Extras()


_envelope_decoder = msgspec.json.Decoder(Envelope)


def parse_envelope(text: str | bytes) -> Envelope:
    """Read the envelope.

    Raises:
        Refused: not JSON, or a field is missing or of the wrong type.
    """
    try:
        return _envelope_decoder.decode(text)
    except msgspec.ValidationError as error:
        raise Refused(errors.ENVELOPE_INVALID, f"The request's envelope does not fit: {error}.") from error
    except RecursionError as error:
        raise Refused(errors.ENVELOPE_INVALID, "The request's envelope is nested too deeply.") from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise Refused(errors.ENVELOPE_INVALID, "The request's form field `data` is not JSON.") from error


class _Follow(msgspec.Struct, frozen=True):
    follow: Annotated[list[Annotated[str, msgspec.Meta(max_length=100)]], msgspec.Meta(max_length=100)]


_follow_decoder = msgspec.json.Decoder(_Follow)


def parse_follow(text: str) -> list[str]:
    """The ids in ``{"follow": [ids]}``, which a client of eDIF's own says on its status socket; none in anything else."""
    try:
        return _follow_decoder.decode(text).follow
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return []


class StatusFrame(msgspec.Struct, frozen=True, omit_defaults=False):
    """One status message, as the client reads it: a text frame, or the body of an answer."""

    id: str
    status: ClientStatus
    description: str = ""
    data: str | None = None
    meta: dict[str, Any] | None = None


def encode_frame(frame: StatusFrame) -> bytes:
    return msgspec.json.encode(frame)


def encode_push(frame: StatusFrame, result: bytes) -> bytes:
    """The binary COMPLETED frame: what ``torch.load`` reads, carrying the result's bytes.

    The format is torch's zip archive with one pickled dict of plain values and no tensors, so neither
    torch nor nnsight is needed to write it (``torch/serialization.py``: an uncompressed zip with
    ``data.pkl`` and ``version`` below one folder).
    """
    body = {
        "id": frame.id,
        "status": frame.status.value,
        "description": frame.description,
        "data": result,
        "meta": frame.meta,
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(body, protocol=4))
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/version", b"3\n")
    return buffer.getvalue()


def error_body(error: EdifError) -> bytes:
    """The JSON body of a refusal: clients show ``detail``, programs read ``code``."""
    return json.dumps({"detail": error.detail, "code": error.code}).encode()


@dataclass(frozen=True, slots=True)
class ClientVersions:
    """What the client says of itself in its headers; empty strings where it says nothing."""

    nnsight: str
    python: str


def check_versions(client: ClientVersions, serving_python: str) -> list[str]:
    """Gate the client's versions; what does not matter enough to refuse comes back as lines to log.

    Raises:
        Refused: an nnsight or Python that cannot work with this fabric.
    """
    notes: list[str] = []
    nnsight = _version_pair(client.nnsight)
    if client.nnsight and nnsight is None:
        notes.append(f"This fabric does not know nnsight {client.nnsight[:40]!r}; it is tested with 0.8.1.")
    if nnsight is not None and nnsight < SUPPORTED_NNSIGHT:
        raise too_old_client(client.nnsight)
    if nnsight is not None and nnsight > SUPPORTED_NNSIGHT:
        raise Refused(
            errors.CLIENT_UNSUPPORTED, f"This fabric speaks with nnsight 0.8; you use {client.nnsight[:40]}."
        )
    python = _version_pair(client.python)
    if python is None:
        return notes
    low, high = SUPPORTED_PYTHON
    if not low <= python <= high:
        raise Refused(
            errors.PYTHON_UNSUPPORTED,
            f"This fabric accepts clients with Python {low[0]}.{low[1]} to {high[0]}.{high[1]}; "
            f"you use {python[0]}.{python[1]}.",
        )
    serving = _version_pair(serving_python)
    if serving is not None and serving != python:
        notes.append(
            f"You use Python {python[0]}.{python[1]}, the model runs in {serving[0]}.{serving[1]}: traces travel "
            "as source and work, but functions without source (made by exec, or C) may not."
        )
    return notes


def too_old_client(version: str) -> Refused:
    """The refusal for the 0.5-0.7 generation, whose payloads this fabric cannot run."""
    named = f"nnsight {version[:40]}" if version else "an nnsight older than 0.8"
    return Refused(errors.CLIENT_TOO_OLD, f"This fabric speaks the protocol of nnsight 0.8; you use {named}.")


def _version_pair(text: str) -> tuple[int, int] | None:
    match = re.match(r"\s*([0-9]{1,9})\.([0-9]{1,9})(?![0-9])", text)
    return (int(match[1]), int(match[2])) if match else None
