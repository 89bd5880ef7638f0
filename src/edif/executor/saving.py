"""Bytes in and out of an executor: the payload from its descriptor, the result into one.

The result is what the client reads: ``torch.save({name: value})``, as one zstd frame that records its content
size when the request said ``compress``, else bare.
"""

import errno
import io
import os
from collections.abc import Callable
from typing import IO, Any, BinaryIO, cast

import torch
import zstandard

from edif.core import errors
from edif.core.errors import JobFailed

_COMPRESSION_LEVEL = 1
_IN_MEMORY_BYTES = 8 * 1024 * 1024


class _TooLarge(Exception):
    pass


class _BoundedWriter(io.RawIOBase):
    """Passes writes on until ``limit_bytes`` would be passed; calls ``on_large`` once if it becomes much."""

    def __init__(self, target: BinaryIO, limit_bytes: int, on_large: Callable[[], None]) -> None:
        self._target = target
        self._left = limit_bytes
        self._large_at = limit_bytes - _IN_MEMORY_BYTES
        self._on_large: Callable[[], None] | None = on_large
        self.failure: Exception | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._left -= len(data)
        if self._left < self._large_at and self._on_large is not None:
            self._on_large()
            self._on_large = None
        if self._left < 0:
            self.failure = _TooLarge()
            raise self.failure
        try:
            return self._target.write(data)
        except OSError as failure:
            self.failure = failure
            raise


def read_payload(fd: int, compress: bool, expanded_limit_bytes: int) -> bytes:
    """The job's pickled block, decompressed.

    Raises:
        JobFailed: the frame is broken, or expands beyond the limit.
    """
    size = os.fstat(fd).st_size
    data = os.pread(fd, size, 0)
    if not compress:
        return data
    bomb = JobFailed(
        errors.PAYLOAD_BOMB,
        f"The payload expands to more than the {expanded_limit_bytes / 2**20:.0f} MiB that this fabric takes.",
    )
    try:
        declared = zstandard.frame_content_size(data)
        if declared > expanded_limit_bytes:
            raise bomb
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=False) as reader:
            # In pieces: one read of the limit's size would reserve all of it.
            pieces, left = [], expanded_limit_bytes + 1
            while left > 0 and (piece := reader.read(min(left, _IN_MEMORY_BYTES))):
                pieces.append(piece)
                left -= len(piece)
            expanded = b"".join(pieces)
    except zstandard.ZstdError as error:
        raise JobFailed(errors.PAYLOAD_CORRUPT, f"The payload is not a whole zstd frame: {error}.") from error
    if len(expanded) > expanded_limit_bytes:
        raise bomb
    if len(expanded) != declared if declared >= 0 else not _whole_frame(data):
        raise JobFailed(errors.PAYLOAD_CORRUPT, "The payload's zstd frame is cut short.")
    return expanded


def _whole_frame(data: bytes) -> bool:
    """Whether the frame has its end. Only for data that is known to expand within bounds."""
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    decompressor.decompress(data)
    return bool(decompressor.eof)


def write_result(
    saved: dict[str, Any],
    fd: int,
    compress: bool,
    limit_bytes: int,
    on_large: Callable[[], None] = lambda: None,
) -> None:
    """Serialise the saved values into the descriptor; ``on_large`` is called if that will take a while.

    Raises:
        JobFailed: a value cannot be pickled, the result is too large, or the disk is full.
    """
    try:
        saved = _compact(saved, {})
    except RecursionError as error:
        raise _unpicklable(saved, error) from error
    try:
        with open(fd, "wb", closefd=False) as file:
            if compress:
                _write_compressed(saved, file, limit_bytes, on_large)
            else:
                _save(saved, _BoundedWriter(file, limit_bytes, on_large))
    except _TooLarge:
        raise JobFailed(
            errors.RESULT_TOO_LARGE,
            f"The saved values are larger than the {limit_bytes / 2**20:.0f} MiB that a result may have.",
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise JobFailed(
                errors.STORAGE_FULL, "The node's disk is full; the result could not be written."
            ) from None
        raise


def _write_compressed(
    saved: dict[str, Any], file: BinaryIO, limit_bytes: int, on_large: Callable[[], None]
) -> None:
    # The frame's header needs the content's size before the first byte. A small result is kept in memory while
    # its size is counted; a large one is serialised a second time, which costs less than a copy on a disk
    # and needs none, for a sealed process has no other place to write to.
    draft = _Draft()
    _save(saved, _BoundedWriter(cast("BinaryIO", draft), limit_bytes, on_large))
    compressor = zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL)
    # No context manager: leaving one after a failed write raises its own error in place of the disk's.
    writer = compressor.stream_writer(file, size=draft.size, closefd=False)
    if draft.kept is not None:
        writer.write(draft.kept.getbuffer())
        writer.close()  # type: ignore[no-untyped-call]
        return
    try:
        _save(saved, _BoundedWriter(cast("BinaryIO", writer), draft.size, lambda: None))
        writer.close()  # type: ignore[no-untyped-call]
    except (_TooLarge, zstandard.ZstdError):
        raise JobFailed(
            errors.RESULT_UNPICKLABLE, "One of the saved values is written differently each time."
        ) from None


class _Draft:
    """Counts what is written, and keeps it while it is small."""

    def __init__(self) -> None:
        self.kept: io.BytesIO | None = io.BytesIO()
        self.size = 0

    def write(self, data: Any) -> int:
        self.size += len(data)
        if self.kept is not None:
            if self.size > _IN_MEMORY_BYTES:
                self.kept = None
            else:
                self.kept.write(data)
        return len(data)


def _save(saved: dict[str, Any], target: _BoundedWriter) -> None:
    try:
        torch.save(saved, cast("IO[bytes]", target))
    except (_TooLarge, OSError):
        raise
    except Exception as error:
        if target.failure is not None:  # torch's archive writer replaced it by one of its own
            raise target.failure from None
        raise _unpicklable(saved, error) from error


def _unpicklable(saved: dict[str, Any], error: Exception) -> JobFailed:
    name = _culprit(saved)
    kind = type(saved[name]).__name__ if name in saved else "value"
    return JobFailed(
        errors.RESULT_UNPICKLABLE,
        f"The saved variable {name!r} ({kind}) cannot be sent back: {type(error).__name__}: {error}.",
    )


def _compact(value: Any, done: dict[int, Any]) -> Any:
    """The value with every view replaced by a copy of what it shows: torch.save writes a view's whole base.

    Looks into plain dicts, lists and tuples; ``done`` keeps what is shared shared, and ends cycles.
    """
    if id(value) in done:
        return done[id(value)]
    done[id(value)] = value
    if type(value) is torch.Tensor:
        done[id(value)] = _without_base(value)
    elif type(value) is dict:
        done[id(value)] = {key: _compact(item, done) for key, item in value.items()}
    elif type(value) in (list, tuple):
        done[id(value)] = type(value)(_compact(item, done) for item in value)
    return done[id(value)]


def _without_base(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.layout is not torch.strided or tensor.device.type == "meta" or tensor.is_quantized:
        return tensor
    if tensor.untyped_storage().nbytes() <= tensor.numel() * tensor.element_size():
        return tensor
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _culprit(saved: dict[str, Any]) -> str:
    for name, value in saved.items():
        try:
            torch.save({name: value}, io.BytesIO())
        except Exception:  # noqa: BLE001 - user objects raise what they like while being pickled
            return name
    return "?"
