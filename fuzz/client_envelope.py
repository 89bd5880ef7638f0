"""What a client sends before it is believed: the envelope, the model key in it, the version headers, a zstd frame's head.

Whatever it is, it is accepted as a value that is read again as it was written, or :class:`Refused` with a body that a
client can show, in a few words: a refusal must not repeat what a megabyte of request said.
"""

import io
import json
import zipfile
from random import Random

import msgspec
import zstandard

from edif.core.errors import Refused
from edif.models.catalogue import ALLOWED_ATTENTION, Catalogue, Deployment
from edif.models.model_key import ALLOWED_CLASSES, format_model_key, parse_model_key
from edif.wire import link
from edif.wire.client_protocol import (
    ClientVersions,
    Envelope,
    StatusFrame,
    check_versions,
    encode_frame,
    encode_push,
    error_body,
    parse_envelope,
)
from edif.wire.zstd import declared_size
from fuzz.target import Target, samples

SERVED = (
    link.ModelSpec("org/plain"),
    link.ModelSpec("org/pinned", revision="v1", task="fill-mask", trust_remote_code=True),
    link.ModelSpec("org/adapted", adapters={"org/lora": "", "org/dora": "/srv/dora"}),
)
CATALOGUE = Catalogue([Deployment(spec) for spec in SERVED])
LONGEST_REFUSAL = 3000
"""In bytes of its body, where a character may take twelve."""


def _refuse(refused: Refused) -> bool:
    body = error_body(refused)
    assert json.loads(body) == {"detail": refused.detail, "code": refused.code}
    assert len(body) <= LONGEST_REFUSAL, f"a refusal of {len(body)} bytes: {refused.detail[:200]}"
    return False


# -- the envelope --------------------------------------------------------------------------------------
def check_envelope(data: bytes) -> bool:
    """As bytes, and as the text that a form parser may make of them, lone surrogates and all."""
    accepted = _envelope(data)
    return _envelope(data.decode("utf-8", "surrogateescape")) or accepted


def _envelope(text: str | bytes) -> bool:
    try:
        envelope = parse_envelope(text)
    except Refused as refused:
        return _refuse(refused)
    again = msgspec.json.encode(envelope)
    assert msgspec.json.encode(parse_envelope(again)) == again, "an envelope is read otherwise than written"
    return _match(envelope)


def _match(envelope: Envelope) -> bool:
    try:
        spec = CATALOGUE.match(envelope.model_key, envelope.env).spec
    except Refused as refused:
        return _refuse(refused)
    assert spec in SERVED
    assert envelope.env.keys() <= {"attn_implementation", "peft"}
    assert envelope.env.get("attn_implementation") in {None, *ALLOWED_ATTENTION}
    assert envelope.env.get("peft") in {None, *spec.adapters}
    return True


def envelope_seeds() -> list[bytes]:
    settings: list[dict[str, object]] = [
        {},
        {"attn_implementation": "eager"},
        {"peft": "org/lora", "attn_implementation": None},
        {"peft": ["org/lora", {"n": -1.5e3}]},
        {"dtype": True},
    ]
    keys = [key.decode() for key in key_seeds()]
    seeds = [Envelope(key, "s1", True, settings[number % 5]) for number, key in enumerate(keys)]
    return [msgspec.json.encode(seed) for seed in seeds] + [
        b'{"model_key": "a:{}", "more": [{"a": [1e9]}, null]}'
    ]


# -- the model key -------------------------------------------------------------------------------------
def check_key(data: bytes) -> bool:
    text = data.decode("utf-8", "surrogateescape")
    try:
        key = parse_model_key(text)
    except Refused as refused:
        return _refuse(refused)
    path, _, _ = text.partition(":")
    assert path in ALLOWED_CLASSES
    assert parse_model_key(f"{path}:{msgspec.json.encode(key).decode()}") == key
    return _match(Envelope(text))


def key_seeds() -> list[bytes]:
    minted = [
        format_model_key(repo, revision, task, trust)
        for repo in ("org/plain", "org/pinned", "org/adapted", "org/other")
        for revision, task, trust in ((None, "text-generation", False), ("v1", "fill-mask", True))
    ]
    language = 'nnsight.modeling.language.LanguageModel:{"repo_id": "org/plain"}'
    return [key.encode() for key in (*minted, language)]


# -- the headers ---------------------------------------------------------------------------------------
def check_headers(data: bytes) -> bool:
    """Three lines: the client's nnsight, its Python, and the Python of the workers; decoded as a server does."""
    nnsight, python, serving, *_ = [*data.decode("latin-1").split("\n"), "", "", ""]
    try:
        notes = check_versions(ClientVersions(nnsight, python), serving)
    except Refused as refused:
        return _refuse(refused)
    assert all(len(note.encode()) <= LONGEST_REFUSAL for note in notes)
    return True


def header_seeds() -> list[bytes]:
    nnsights = (b"0.8.1", b"0.8.17.dev3+gabc", b"0.7.2", b"0.5", b"0.9.0", b"1.0", b"main", b"")
    pythons = (b"3.11.7", b"3.13.0rc1", b"3.9.1", b"3.14.0", b"snake", b"")
    return [b"\n".join((nnsight, python, b"3.11.9")) for nnsight in nnsights for python in pythons]


# -- frames --------------------------------------------------------------------------------------------
def check_frame(data: bytes) -> bool:
    """Any frame that can be said is heard as it was said, as text and as torch's archive."""
    try:
        frame = msgspec.json.decode(data, type=StatusFrame)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    if any(isinstance(value, dict | list) for value in (frame.meta or {}).values()):
        return False  # frames are the gateway's own, and what they tell there are numbers
    assert msgspec.json.decode(encode_frame(frame), type=StatusFrame) == frame
    with zipfile.ZipFile(io.BytesIO(encode_push(frame, data))) as archive:
        assert archive.testzip() is None
        assert data in archive.read("archive/data.pkl")
    return True


def frame_seeds() -> list[bytes]:
    return [msgspec.json.encode(frame) for frame in samples((StatusFrame,), count=20)]


# -- zstd ----------------------------------------------------------------------------------------------
def check_zstd(data: bytes) -> bool:
    """What is declared is what the decompressor finds, and 18 bytes say all."""
    size = declared_size(data)
    assert declared_size(data[:18]) == size
    if size is None:
        return False
    assert 0 <= size < 2**64
    assert size == zstandard.get_frame_parameters(data).content_size
    return True


def zstd_seeds() -> list[bytes]:
    random = Random(0)
    frames = [
        zstandard.ZstdCompressor().compress(random.randbytes(size)) for size in (0, 1, 255, 256, 70_000)
    ]
    streamed = zstandard.ZstdCompressor().compressobj()
    frames.append(streamed.compress(b"abc") + streamed.flush())
    frames.append(zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compress(b"abc"))
    return [frame[:32] for frame in frames]


TARGETS: dict[str, Target] = {
    "envelope": Target(check_envelope, envelope_seeds),
    "key": Target(check_key, key_seeds),
    "headers": Target(check_headers, header_seeds, most_bytes=300),
    "frame": Target(check_frame, frame_seeds),
    "zstd": Target(check_zstd, zstd_seeds, most_bytes=32),
}
