"""The blob stores that the contract suite runs on."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from edif.blobs.file_blobs import FileBlobs
from edif.blobs.s3_blobs import S3Blobs
from edif.blobs.s3_requests import Bucket
from edif.blobs.store import BlobStore
from tests.servers.radosgw import CREDENTIALS, REGION, RadosGateway


@dataclass(frozen=True, slots=True)
class BlobFactory:
    """How a store is opened, and what lies in it when one looks below its surface: half written things too.

    Both are told a folder of the test; a store that is opened twice there is the same.
    """

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


def files() -> BlobFactory:
    return BlobFactory("files", FileBlobs, files_below)


def s3(server: RadosGateway) -> BlobFactory:
    """Each folder of a test stands for a prefix in a bucket."""
    bucket = server.new_bucket()

    def prefix(folder: Path) -> str:
        return folder.as_posix().strip("/")

    def opened(folder: Path) -> BlobStore:
        return S3Blobs(bucket_of(server, bucket, prefix(folder)), folder)

    def everything(folder: Path) -> dict[str, int]:
        begin = prefix(folder) + "/"
        found = server.objects(bucket) | dict.fromkeys(server.unfinished_uploads(bucket), -1)
        return {key.removeprefix(begin): size for key, size in found.items() if key.startswith(begin)}

    return BlobFactory("s3", opened, everything)


def bucket_of(server: RadosGateway, name: str, prefix: str = "") -> Bucket:
    return Bucket(name, prefix, server.endpoint, REGION, CREDENTIALS)


async def chunks_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
