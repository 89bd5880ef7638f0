"""The Hub mirror: metadata files of the served models, kept in a folder, so that clients need no internet.

Agents send the files of their models. A repository that is not served may come from a configured upstream
Hub: metadata only, size-capped, cached, fetched by the gateway without the client's credentials and never by
redirect, for a redirect would carry eDIF keys to another host.
"""

import asyncio
import json
import os
import re
import secrets
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import httpx

from edif.core import errors
from edif.core.errors import EdifError, NotFound, Refused
from edif.models.metadata import MAX_METADATA_BYTES, is_metadata, is_weights, revision_of

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_REVISION = re.compile(r"[\w.-]{1,100}")
_UPSTREAM_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class HubFile:
    """One metadata file; ``etag`` is the SHA-256 of its bytes, ``commit`` the repository's revision."""

    body: bytes
    etag: str
    commit: str


class HubMirror:
    """Repositories by id, each with its files and one revision.

    Args:
        folder: where agents' files are kept across restarts.
        upstream: base URL of a Hub to ask for other repositories, or None.
    """

    def __init__(self, folder: Path, upstream: str | None) -> None:
        self._folder = folder
        self._upstream = upstream.rstrip("/") if upstream else None
        self._repos: dict[str, dict[str, HubFile]] = {}
        self._arriving: dict[tuple[str, str], dict[str, bytes]] = {}
        self._upstream_cache: dict[tuple[str, str, str], HubFile | None] = {}
        self._upstream_info: dict[tuple[str, str], bytes] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._restore()

    # -- what agents send ------------------------------------------------------------------------------
    def receive(self, repo: str, name: str, body: bytes, upload: str = "") -> None:
        """Take one file of an upload (agents may send the same repository at the same time); it is served once :meth:`publish` says that all have come.

        Raises:
            Refused: the repository's or the file's name is not acceptable.
        """
        if not _REPO.fullmatch(repo) or not is_metadata(name):
            raise Refused(errors.REQUEST_INVALID, f"{name[:80]!r} of {repo[:80]!r} is no metadata file.")
        self._arriving.setdefault((repo, upload), {})[name] = body

    def publish(self, repo: str, names: list[str], upload: str = "") -> None:
        """Serve the received files from now on, in place of any earlier ones."""
        arrived = self._arriving.pop((repo, upload), {})
        missing = sorted(set(names) - set(arrived))
        if missing:
            raise Refused(errors.REQUEST_INVALID, f"The file {missing[0][:80]!r} has not come.")
        published = {name: arrived[name] for name in names}
        self._keep(repo, published)
        self._repos[repo] = _files(published)

    def _keep(self, repo: str, files: dict[str, bytes]) -> None:
        # One folder per version, made whole before a small file names it: a crash leaves old or new.
        version = self._folder / f"{repo.replace('/', '--')}-{secrets.token_hex(4)}"
        for name, body in files.items():
            path = version / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        index = self._index()
        stale = index.get(repo)
        index[repo] = version.name
        temporary = self._folder / "index.tmp"
        temporary.write_text(json.dumps(index))
        temporary.rename(self._folder / "index.json")
        if stale is not None:
            _remove_tree(self._folder / stale)

    def _index(self) -> dict[str, str]:
        try:
            index: dict[str, str] = json.loads((self._folder / "index.json").read_text())
        except FileNotFoundError:
            return {}
        return index

    def _restore(self) -> None:
        for repo, version in self._index().items():
            root = self._folder / version
            found = {
                path.relative_to(root).as_posix(): path.read_bytes()
                for path in root.rglob("*")
                if path.is_file()
            }
            self._repos[repo] = _files(found)

    # -- what clients ask ------------------------------------------------------------------------------
    def serves(self, repo: str) -> bool:
        return repo in self._repos

    async def info(self, repo: str, revision: str) -> bytes:
        """The JSON of ``GET /api/models/{repo}[/revision/{revision}]``.

        Raises:
            NotFound: the repository is not known here.
        """
        files = self._repos.get(repo)
        if files is not None:
            commit = next((file.commit for file in files.values()), "0" * 40)
            siblings = [{"rfilename": name} for name in sorted(files)]
            task = _pipeline_tag(files)
            return json.dumps(
                {
                    "id": repo,
                    "modelId": repo,
                    "sha": commit,
                    "private": False,
                    "tags": [],
                    "pipeline_tag": task,
                    "library_name": "transformers",
                    "siblings": siblings,
                }
            ).encode()
        return await self._info_upstream(repo, revision)

    async def file(self, repo: str, revision: str, name: str) -> HubFile:
        """One metadata file.

        Raises:
            NotFound: the repository or the file is not known here.
            Refused: the file holds weights.
        """
        if is_weights(name):
            raise Refused(errors.HUB_NO_WEIGHTS, f"{name[:80]!r} of {repo[:80]!r} holds weights.")
        files = self._repos.get(repo)
        if files is not None:
            found = files.get(name)
        else:
            found = await self._file_upstream(repo, revision, name)
        if found is None:
            raise NotFound(errors.HUB_ENTRY_UNKNOWN, f"{repo[:80]!r} has no file {name[:80]!r} here.")
        return found

    def files(self, repo: str) -> dict[str, HubFile] | None:
        return self._repos.get(repo)

    # -- upstream --------------------------------------------------------------------------------------
    def _upstream_url(self, repo: str, revision: str) -> str:
        if self._upstream is None or not _REPO.fullmatch(repo) or not _REVISION.fullmatch(revision):
            raise NotFound(
                errors.HUB_REPO_UNKNOWN, f"The repository {repo[:80]!r} is not served by this fabric."
            )
        return self._upstream

    async def _info_upstream(self, repo: str, revision: str) -> bytes:
        url = f"{self._upstream_url(repo, revision)}/api/models/{quote(repo)}/revision/{quote(revision)}"
        key = (repo, revision)
        if key not in self._upstream_info:
            body, _ = await _fetch(url)
            if body is None:
                raise NotFound(
                    errors.HUB_REPO_UNKNOWN, f"The repository {repo[:80]!r} is not known upstream."
                )
            self._upstream_info[key] = body
        return self._upstream_info[key]

    async def _file_upstream(self, repo: str, revision: str, name: str) -> HubFile | None:
        base = self._upstream_url(repo, revision)
        if not is_metadata(name):
            return None
        key = (repo, revision, name)
        if key not in self._upstream_cache:
            body, headers = await _fetch(f"{base}/{quote(repo)}/resolve/{quote(revision)}/{quote(name)}")
            commit = headers.get("x-repo-commit", "0" * 40)
            self._upstream_cache[key] = (
                None if body is None else HubFile(body, sha256(body).hexdigest(), commit)
            )
        return self._upstream_cache[key]


async def _fetch(url: str) -> tuple[bytes | None, httpx.Headers]:
    """Fetch a small public file without any credentials; None if it is not there.

    Raises:
        EdifError: the upstream does not answer, or answers with too much.
    """
    try:
        async with (
            asyncio.timeout(_UPSTREAM_TIMEOUT_S),
            httpx.AsyncClient(follow_redirects=True, max_redirects=5, trust_env=True) as client,
            client.stream("GET", url) as response,
        ):
            if response.status_code in (401, 403, 404):
                return None, response.headers
            response.raise_for_status()
            body = b""
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_METADATA_BYTES:
                    raise EdifError(errors.HUB_UPSTREAM_FAILED, "The upstream Hub's file is too large.")
            first = response.history[0] if response.history else response
            return body, first.headers
    except (httpx.HTTPError, TimeoutError) as error:
        raise EdifError(errors.HUB_UPSTREAM_FAILED, "The upstream Hub cannot be reached.") from error


def _files(bodies: dict[str, bytes]) -> dict[str, HubFile]:
    commit = revision_of(bodies)
    return {name: HubFile(body, sha256(body).hexdigest(), commit) for name, body in bodies.items()}


def _pipeline_tag(files: dict[str, HubFile]) -> str:
    """The task that ``transformers`` infers from the Hub: as the model card's front matter has it."""
    card = files.get("README.md")
    match = (
        re.search(rb"^pipeline_tag:\s*([\w-]+)\s*$", card.body, re.MULTILINE) if card is not None else None
    )
    return match[1].decode() if match else "text-generation"


def _remove_tree(folder: Path) -> None:
    for root, folders, names in os.walk(folder, topdown=False):
        for name in names:
            Path(root, name).unlink()
        for name in folders:
            Path(root, name).rmdir()
    if folder.is_dir():
        folder.rmdir()
