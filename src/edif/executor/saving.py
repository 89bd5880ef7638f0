"""Bytes in and out of an executor: the payload from its descriptor, the result into one, what is kept into another.

The result is what the client reads: ``torch.save({name: value})``, as one zstd frame that records its content
size when the request said ``compress``, else bare; or packed (:mod:`edif.wire.packed`), for a client that reads that.
"""

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import torch
import zstandard

from edif.core import errors
from edif.core.errors import JobFailed
from edif.core.job import Extras, Rounding
from edif.core.limits import MIB
from edif.executor.archive import Archive, lay_out
from edif.executor.compression import Form, form_for
from edif.executor.keeping import Keeping
from edif.executor.out_of_memory import is_out_of_memory
from edif.executor.packing import write_packed
from edif.executor.parts import gathered

_LARGE_BYTES = 8 * MIB


class Written(NamedTuple):
    """How a result was written.

    Attributes:
        packed: in the form that only clients of eDIF's own read.
        rounded: how many tensors are in it as narrower floats than they are.
    """

    packed: bool
    rounded: int


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
    extras: Extras = Extras(),  # noqa: B008 - frozen
    on_large: Callable[[], None] = lambda: None,
    keeping: Keeping | None = None,
    room_for_kept: Callable[[], int] | None = None,
) -> Written:
    """Serialise the saved values into the descriptor, in one pass; ``on_large`` is called if that will take a while.

    Args:
        extras: what the client asks for beyond the protocol: that wider floats are rounded, and a packed result where that pays.
        keeping: what of them stays on the fabric.
        room_for_kept: gives a descriptor for that, which is closed here. Called if there is any.

    Raises:
        JobFailed: a value cannot be pickled, the result or what is kept is too large, or the disk is full.
    """
    try:
        archive = lay_out(saved, _dtype(extras.rounding), keeping)
    except MemoryError:
        raise
    except Exception as error:
        raise _unpicklable(saved, error) from error
    kept_bytes = 0 if keeping is None else keeping.size
    _check_size("saved values", archive.size, "a result may have", limit_bytes)
    _check_size("kept values", kept_bytes, "a job may keep", limit_bytes)
    if archive.size + kept_bytes > _LARGE_BYTES:
        on_large()
    form = form_for(archive, extras) if compress else None
    with _failure_told("result"), open(fd, "wb", closefd=False) as file:
        _write(archive, file, form)
    if keeping is not None and keeping.anything and room_for_kept is not None:
        room = room_for_kept()
        with _failure_told("kept values"), os.fdopen(room, "wb") as file:
            _write_kept(keeping, file)
    return Written(form is not None and form.packed, archive.rounded)


def _dtype(rounding: Rounding | None) -> torch.dtype | None:
    return None if rounding is None else getattr(torch, rounding)


def _check_size(what: str, size: int, allowed: str, limit_bytes: int) -> None:
    if size > limit_bytes:
        raise JobFailed(
            errors.RESULT_TOO_LARGE,
            f"The {what} have {size / 2**20:,.1f} MiB; {allowed} {limit_bytes / 2**20:,.1f} MiB.",
        )


@contextmanager
def _failure_told(what: str) -> Iterator[None]:
    """What stands in the way of writing is the job's end, never its process's."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise JobFailed(
                errors.STORAGE_FULL, f"The node's disk is full; the {what} could not be written."
            ) from None
        raise
    except (JobFailed, MemoryError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise MemoryError from error
        raise JobFailed(
            errors.RESULT_UNPICKLABLE, f"The {what} cannot be read: {type(error).__name__}: {error}."
        ) from error


def _write_kept(keeping: Keeping, file: BinaryIO) -> None:
    written = 0
    for start, tensor in keeping.tensors():
        written += file.write(bytes(start - written))
        for piece in gathered(tensor, tensor.dtype):
            written += file.write(piece)


def _write(archive: Archive, file: BinaryIO, form: Form | None) -> None:
    if form is not None and form.packed:
        write_packed(archive, file, form.threads)
        return
    # No context manager: leaving one after a failed write raises its own error in place of the disk's.
    writer = None if form is None else form.compressor().stream_writer(file, size=archive.size, closefd=False)
    for piece in archive.pieces():
        (writer or file).write(piece.view)
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
