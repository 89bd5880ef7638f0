"""The Hub that the mirror asks for repositories which are not served here.

Metadata files only, of bounded size, fetched without credentials or cookies; redirects are followed here and never
passed on. What came is kept for a while in a bounded cache, so that a workshop's forty laptops cost one fetch.
"""

import asyncio
from dataclasses import dataclass
from hashlib import sha256
from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.parse import quote

import httpx
from cachetools import TTLCache

from edif.core import errors
from edif.core.errors import EdifError
from edif.models.metadata import MAX_METADATA_BYTES

_TIMEOUT_S = 20.0
_KEPT_S = 600.0
_KEPT_BYTES = 256 * 2**20
_MISS_BYTES = 1024
"""What remembering a miss counts as, so that misses are bounded too."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """One metadata file; ``etag`` is the SHA-256 of its bytes, ``commit`` the repository's revision."""

    body: bytes
    etag: str
    commit: str


@dataclass(frozen=True, slots=True)
class _Fetched:
    body: bytes | None
    commit: str


class HubUpstream:
    """One Hub, by its base URL. All calls belong to one event loop."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._client: httpx.AsyncClient | None = None
        self._cache: TTLCache[str, _Fetched] = TTLCache(_KEPT_BYTES, _KEPT_S, getsizeof=_size)
        self._fetching: dict[str, asyncio.Task[_Fetched]] = {}

    async def close(self) -> None:
        for fetching in list(self._fetching.values()):
            fetching.cancel()
        if self._client is not None:
            await self._client.aclose()

    async def info(self, repo: str, revision: str) -> bytes | None:
        """The JSON that describes the repository, None if there is none."""
        return (await self._get(f"api/models/{quote(repo)}/revision/{quote(revision)}")).body

    async def file(self, repo: str, revision: str, name: str) -> HubFile | None:
        """One file, None if it is not there."""
        fetched = await self._get(f"{quote(repo)}/resolve/{quote(revision)}/{quote(name)}")
        if fetched.body is None:
            return None
        return HubFile(fetched.body, sha256(fetched.body).hexdigest(), fetched.commit)

    async def _get(self, path: str) -> _Fetched:
        """
        Raises:
            EdifError: the upstream does not answer, or answers with too much.
        """
        if (known := self._cache.get(path)) is not None:
            return known
        fetching = self._fetching.get(path)
        if fetching is None:
            fetching = self._fetching[path] = asyncio.create_task(self._fetch(path))
            fetching.add_done_callback(lambda _: self._fetching.pop(path))
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                # One who gives up waiting does not take it away from the others.
                fetched = await asyncio.shield(fetching)
        except (httpx.HTTPError, TimeoutError) as error:
            raise EdifError(errors.HUB_UPSTREAM_FAILED, "The upstream Hub cannot be reached.") from error
        if _size(fetched) <= _KEPT_BYTES:
            self._cache[path] = fetched
        return fetched

    async def _fetch(self, path: str) -> _Fetched:
        if self._client is None:  # made on first use: its TLS context takes a tenth of a second
            nothing = CookieJar(DefaultCookiePolicy(allowed_domains=()))
            self._client = httpx.AsyncClient(follow_redirects=True, max_redirects=5, cookies=nothing)
        async with self._client.stream("GET", f"{self._url}/{path}") as response:
            if response.status_code in (401, 403, 404):
                return _Fetched(None, "")
            response.raise_for_status()
            body = b""
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_METADATA_BYTES:
                    raise EdifError(errors.HUB_UPSTREAM_FAILED, "The upstream Hub's file is too large.")
            first = response.history[0] if response.history else response
            return _Fetched(body, first.headers.get("x-repo-commit", "0" * 40))


def _size(fetched: _Fetched) -> int:
    return _MISS_BYTES + len(fetched.body or b"")
