"""The few requests to an S3 bucket that obstore has no name for: which uploads in parts nobody ended, and ending them.

Requests are signed with AWS Signature Version 4
(https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html).
"""

import hmac
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from urllib.parse import quote
from xml.etree import ElementTree

import httpx

_NO_BODY = sha256(b"").hexdigest()
_TIMEOUT = httpx.Timeout(30.0, connect=5.0)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Keys of an S3 account; ``token`` belongs to temporary ones."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where a fabric's blobs lie in S3.

    Attributes:
        prefix: stands before every name, without slashes at its ends; may be empty.
        endpoint: base URL of the service; the bucket is the first part of the path below it.
        credentials: None where the machine's own role lets it in.
        authorities: a PEM file of those who may vouch for the endpoint, beside the public ones.
    """

    name: str
    prefix: str
    endpoint: str
    region: str
    credentials: Credentials | None = None
    authorities: str | None = None

    @property
    def url(self) -> str:
        """As a person writes it in a setting."""
        return f"s3://{self.name}/{self.prefix}".rstrip("/")

    def tls(self) -> ssl.SSLContext:
        """Whom to believe that they are the endpoint."""
        context = ssl.create_default_context()
        if self.authorities is not None:
            context.load_verify_locations(self.authorities)
        return context

    def key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload in parts that was begun and not ended."""

    key: str
    id: str
    begun: datetime


async def unfinished_uploads(http: httpx.AsyncClient, bucket: Bucket, prefix: str) -> list[Upload]:
    """
    Raises:
        httpx.HTTPError: the store cannot be asked, or refuses.
    """
    found: list[Upload] = []
    query = {"prefix": prefix, "uploads": ""}
    while True:
        listed = ElementTree.fromstring(await request(http, bucket, "GET", "", query))  # noqa: S314 - from our own store
        for each in listed.iterfind("{*}Upload"):
            begun = datetime.fromisoformat(each.findtext("{*}Initiated", "").replace("Z", "+00:00"))
            found.append(Upload(each.findtext("{*}Key", ""), each.findtext("{*}UploadId", ""), begun))
        if listed.findtext("{*}IsTruncated") != "true":
            return found
        query["key-marker"] = listed.findtext("{*}NextKeyMarker", "")
        query["upload-id-marker"] = listed.findtext("{*}NextUploadIdMarker", "")


async def end_upload(http: httpx.AsyncClient, bucket: Bucket, upload: Upload) -> None:
    """Give up what it has brought so far.

    Raises:
        httpx.HTTPError: the store cannot be asked, or refuses.
    """
    await request(http, bucket, "DELETE", upload.key, {"uploadId": upload.id})


async def request(
    http: httpx.AsyncClient, bucket: Bucket, method: str, key: str, query: Mapping[str, str]
) -> bytes:
    """One signed request without a body, and what was answered.

    Raises:
        httpx.HTTPError: the store cannot be asked, or refuses.
    """
    assert bucket.credentials is not None
    path = quote(f"/{bucket.name}/{key}" if key else f"/{bucket.name}", safe="/-_.~")
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in query.items())
    url = httpx.URL(f"{bucket.endpoint}{path}?{'&'.join(f'{name}={value}' for name, value in pairs)}")
    headers = _signed(method, url, bucket.region, bucket.credentials, datetime.now(UTC))
    answer = await http.request(method, url, headers=headers, timeout=_TIMEOUT)
    answer.raise_for_status()
    return answer.content


def _signed(
    method: str, url: httpx.URL, region: str, credentials: Credentials, now: datetime
) -> dict[str, str]:
    moment = now.strftime("%Y%m%dT%H%M%SZ")
    headers = {
        "host": url.netloc.decode(),
        "x-amz-content-sha256": _NO_BODY,
        "x-amz-date": moment,
    }
    if credentials.token is not None:
        headers["x-amz-security-token"] = credentials.token
    path, _, query = url.raw_path.decode().partition("?")
    names = ";".join(sorted(headers))
    canonical = "\n".join(
        (method, path, query, *(f"{name}:{headers[name]}" for name in sorted(headers)), "", names, _NO_BODY)
    )
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{credentials.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return headers
