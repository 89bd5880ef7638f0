"""The Hub mirror: metadata files of the served models, kept in a folder, so that clients need no internet.

Agents send the files of their models. A repository that is not served may come from a configured upstream
Hub, fetched by the gateway and never by redirecting the client, which would carry eDIF keys to another host.
"""

import json
import os
import re
import secrets
from hashlib import sha256
from pathlib import Path

from edif.core import errors
from edif.core.errors import NotFound, Refused
from edif.gateway.hub_upstream import HubFile, HubUpstream
from edif.models.metadata import is_metadata, is_weights, revision_of

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_UNFINISHED_UPLOADS = 8
_REVISION = re.compile(r"[\w.-]{1,100}")


class HubMirror:
    """Repositories by id, each with its files and one revision.

    Args:
        folder: where agents' files are kept across restarts.
        upstream: base URL of a Hub to ask for other repositories, or None.
    """

    def __init__(self, folder: Path, upstream: str | None) -> None:
        self._folder = folder
        self._upstream = HubUpstream(upstream) if upstream else None
        self._repos: dict[str, dict[str, HubFile]] = {}
        self._arriving: dict[tuple[str, str], dict[str, bytes]] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._restore()

    async def close(self) -> None:
        if self._upstream is not None:
            await self._upstream.close()

    # -- what agents send ------------------------------------------------------------------------------
    def receive(self, repo: str, name: str, body: bytes, upload: str = "") -> None:
        """Take one file of an upload (agents may send the same repository at the same time); it is served once :meth:`publish` says that all have come.

        Raises:
            Refused: the repository's or the file's name is not acceptable.
        """
        if not _REPO.fullmatch(repo) or not is_metadata(name):
            raise Refused(errors.REQUEST_INVALID, f"{name[:80]!r} of {repo[:80]!r} is no metadata file.")
        if (repo, upload) not in self._arriving:
            self._make_room(repo)
        self._arriving.setdefault((repo, upload), {})[name] = body

    def _make_room(self, repo: str) -> None:
        """Forget the oldest upload of the repository when too many of them have not been finished."""
        unfinished = [key for key in self._arriving if key[0] == repo]
        if len(unfinished) >= _UNFINISHED_UPLOADS:
            del self._arriving[unfinished[0]]

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
    def _upstream_for(self, repo: str, revision: str) -> HubUpstream:
        if self._upstream is None or not _REPO.fullmatch(repo) or not _REVISION.fullmatch(revision):
            raise NotFound(
                errors.HUB_REPO_UNKNOWN, f"The repository {repo[:80]!r} is not served by this fabric."
            )
        return self._upstream

    async def _info_upstream(self, repo: str, revision: str) -> bytes:
        info = await self._upstream_for(repo, revision).info(repo, revision)
        if info is None:
            raise NotFound(errors.HUB_REPO_UNKNOWN, f"The repository {repo[:80]!r} is not known upstream.")
        return info

    async def _file_upstream(self, repo: str, revision: str, name: str) -> HubFile | None:
        upstream = self._upstream_for(repo, revision)
        return await upstream.file(repo, revision, name) if is_metadata(name) else None


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
