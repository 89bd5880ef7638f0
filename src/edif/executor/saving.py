"""Bytes in and out of an executor: the payload from its descriptor, the result into one.

The result is what the client reads: ``torch.save({name: value})``, as one zstd frame that records its content
size when the request said ``compress``, else bare.
"""

import errno
import io
import os
from collections.abc import Callable
from typing import Any, BinaryIO

import torch
import zstandard

from edif.core import errors
from edif.core.errors import JobFailed
from edif.core.limits import MIB
from edif.executor.archive import Archive, lay_out
from edif.executor.compression import compressor_for

_LARGE_BYTES = 8 * MIB


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
            while left > 0 and (piece := reader.read(min(left, _LARGE_BYTES))):
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
    """Serialise the saved values into the descriptor, in one pass; ``on_large`` is called if that will take a while.

    Raises:
        JobFailed: a value cannot be pickled, the result is too large, or the disk is full.
    """
    try:
        archive = lay_out(saved)
    except MemoryError:
        raise
    except Exception as error:
        raise _unpicklable(saved, error) from error
    if archive.size > limit_bytes:
        raise JobFailed(
            errors.RESULT_TOO_LARGE,
            f"The saved values have {archive.size / 2**20:,.1f} MiB; "
            f"a result may have {limit_bytes / 2**20:,.1f} MiB.",
        )
    if archive.size > _LARGE_BYTES:
        on_large()
    try:
        with open(fd, "wb", closefd=False) as file:
            _write(archive, file, compress)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise JobFailed(
                errors.STORAGE_FULL, "The node's disk is full; the result could not be written."
            ) from None
        raise


def _write(archive: Archive, file: BinaryIO, compress: bool) -> None:
    # No context manager: leaving one after a failed write raises its own error in place of the disk's.
    writer = (
        compressor_for(archive).stream_writer(file, size=archive.size, closefd=False) if compress else None
    )
    for piece in archive.pieces():
        (writer or file).write(piece)
    if writer is not None:
        writer.close()  # type: ignore[no-untyped-call]


def _unpicklable(saved: dict[str, Any], error: Exception) -> JobFailed:
    name = _culprit(saved)
    kind = type(saved[name]).__name__ if name in saved else "value"
    return JobFailed(
        errors.RESULT_UNPICKLABLE,
        f"The saved variable {name!r} ({kind}) cannot be sent back: {type(error).__name__}: {error}.",
    )


def _culprit(saved: dict[str, Any]) -> str:
    for name, value in saved.items():
        try:
            torch.save({name: value}, io.BytesIO())
        except Exception:  # noqa: BLE001 - user objects raise what they like while being pickled
            return name
    return "?"
