"""The blob stores that the contract suite runs on: a new one is added to :data:`FACTORIES`."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from edif.blobs.file_blobs import FileBlobs
from edif.blobs.store import BlobStore


@dataclass(frozen=True, slots=True)
class BlobFactory:
    """How a store is opened, and what lies in it when one looks below its surface."""

    name: str
    open: Callable[[Path], BlobStore]
    everything: Callable[[Path], dict[str, int]]


def files_below(folder: Path) -> dict[str, int]:
    """Every file, half written ones too, with its size."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }


FACTORIES = [BlobFactory("files", FileBlobs, files_below)]


async def chunks_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
