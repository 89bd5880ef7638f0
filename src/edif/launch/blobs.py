"""Which blob store a fabric has, by its settings: the folder ``blobs/`` of the data folder, or an S3 bucket."""

import asyncio
import configparser
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog

from edif.blobs.file_blobs import FileBlobs
from edif.blobs.s3_requests import Bucket, Credentials
from edif.core import errors
from edif.core.errors import BlobsUnavailable, SetupError
from edif.launch.data_folder import DataFolder
from edif.settings import Settings, environment

if TYPE_CHECKING:
    from edif.blobs.s3_blobs import S3Blobs

log = structlog.get_logger()

_ASK_AGAIN_S = 5.0
_REGION = "us-east-1"
"""What services other than Amazon's take for their own, unless told otherwise."""


def open_blobs(settings: Settings, folder: DataFolder, writer: str = "somebody") -> "FileBlobs | S3Blobs":
    """The store of payloads and results, which is not asked anything yet.

    Raises:
        SetupError: the settings do not fit.
    """
    return open_bucket(settings, folder) or FileBlobs(folder.blobs, writer)


def open_bucket(settings: Settings, folder: DataFolder) -> "S3Blobs | None":
    """The store if it is a bucket.

    Raises:
        SetupError: the settings do not fit.
    """
    bucket = bucket_of(settings, environment())
    if bucket is None:
        return None
    try:
        from edif.blobs.s3_blobs import S3Blobs  # an extra: who keeps to the folder does not have the library
    except ImportError as error:
        raise SetupError(
            errors.WORKER_DEPENDENCY, f"The setting `blobs` names S3, and {error.name} is not installed."
        ) from error
    try:
        bucket.tls()
    except OSError as error:  # an SSLError is one
        raise SetupError(
            errors.CONFIG_INVALID,
            f"The authorities of `blobs_ca`, {bucket.authorities!r}, cannot be read: {error.strerror or error}.",
        ) from error
    return S3Blobs(bucket, folder.spool)


async def until_reached(blobs: "S3Blobs") -> None:
    """Wait for as long as the bucket does not answer.

    Raises:
        SetupError: it cannot be used, and that does not pass by itself.
    """
    while True:
        try:
            await blobs.id()
        except BlobsUnavailable as error:
            if error.kind is not errors.BLOBS_UNREACHABLE:
                raise SetupError(error.kind, error.sentence, error.next_step) from error
            log.warning("agent.bucket_awaited", reason=error.sentence)
        else:
            return
        await asyncio.sleep(_ASK_AGAIN_S)


async def known_store(blobs: "FileBlobs | S3Blobs", folder: DataFolder) -> str:
    """The name by which agents recognise the store; a bucket that cannot be used turns out here.

    Raises:
        SetupError: it cannot be used.
    """
    if isinstance(blobs, FileBlobs):
        return folder.store_id()
    ours = f"s3-{folder.store_id()}"
    try:
        found = await blobs.id(make=ours)
    except BlobsUnavailable as error:
        raise SetupError(error.kind, error.sentence, error.next_step) from error
    if found != ours:  # each would delete what belongs to no job that it knows
        raise SetupError(
            errors.CONFIG_INVALID,
            f"The place {blobs.bucket.url} belongs to the fabric of another data folder.",
            "Give each fabric a prefix of its own: blobs = s3://BUCKET/PREFIX.",
        )
    return ours


def bucket_of(settings: Settings, variables: Mapping[str, str]) -> Bucket | None:
    """The bucket that the settings name, with what the usual ``AWS_*`` variables say of it.

    Raises:
        SetupError: the file with the keys cannot be read.
    """
    if settings.blobs is None:
        return None
    url = urlsplit(settings.blobs)
    region = settings.blobs_region or variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION")
    endpoint = (
        settings.blobs_endpoint or variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL")
    )
    return Bucket(
        name=url.netloc,
        prefix=url.path.strip("/"),
        endpoint=(endpoint or f"https://s3.{region or _REGION}.amazonaws.com").rstrip("/"),
        region=region or _REGION,
        credentials=_from_file(settings.blobs_credentials) or _from_variables(variables),
        authorities=None if settings.blobs_ca is None else str(settings.blobs_ca),
    )


def _from_variables(variables: Mapping[str, str]) -> Credentials | None:
    access, secret = variables.get("AWS_ACCESS_KEY_ID"), variables.get("AWS_SECRET_ACCESS_KEY")
    return Credentials(access, secret, variables.get("AWS_SESSION_TOKEN")) if access and secret else None


def _from_file(path: Path | None) -> Credentials | None:
    if path is None:
        return None
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        parser.read_string(path.read_text())
        keys = parser["default"]
        return Credentials(
            keys["aws_access_key_id"], keys["aws_secret_access_key"], keys.get("aws_session_token")
        )
    except (OSError, UnicodeDecodeError, configparser.Error, KeyError) as error:
        raise SetupError(
            errors.CONFIG_INVALID,
            f"The file {str(path)!r} of `blobs_credentials` has no S3 keys that can be read: {type(error).__name__}.",
            "Write it as AWS tools do: [default], aws_access_key_id = ..., aws_secret_access_key = ...",
        ) from error
