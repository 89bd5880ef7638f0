"""The files of a model that a client needs, and those it must never get: metadata yes, weights no."""

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MAX_METADATA_BYTES = 50 * 1024 * 1024

_METADATA_SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja", ".md", ".tiktoken", ".vocab", ".merges"})
_WEIGHT_SUFFIXES = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".npz", ".ot"}
)
_WEIGHT_INDEX_MARK = ".index.json"


def is_weights(name: str) -> bool:
    """Whether the file holds weights, or exists only to find them."""
    path = PurePosixPath(name.lower())
    return path.suffix in _WEIGHT_SUFFIXES or path.name.endswith(_WEIGHT_INDEX_MARK)


def is_metadata(name: str) -> bool:
    """Whether a client may have the file: config, tokenizer, chat template, model card, adapter config."""
    path = PurePosixPath(name)
    if path.is_absolute() or "\0" in name or any(part.startswith(".") for part in path.parts):
        return False
    if is_weights(name):
        return False
    return path.suffix.lower() in _METADATA_SUFFIXES


def metadata_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """The metadata files below ``folder`` as (name relative to it, path), in the order of their names."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and is_metadata(name) and path.stat().st_size <= MAX_METADATA_BYTES:
            yield name, path


def revision_of(files: dict[str, bytes]) -> str:
    """A stand-in for a Hub commit id: 40 hex digits that change when any of the files does."""
    digest = hashlib.sha1(usedforsecurity=False)
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    return digest.hexdigest()
