"""Sending a model's metadata files to the gateway, which serves them to clients under ``/hub``."""

import secrets
from pathlib import Path
from urllib.parse import quote

import httpx
import structlog

from edif.models.metadata import is_metadata, metadata_files
from edif.wire.link import UPLOAD_HEADER, ModelSpec

log = structlog.get_logger()


def local_folder(repo_id: str, path: str | None, revision: str | None) -> Path:
    """The folder that holds the repository's metadata on this node, fetched from the Hub if need be.

    Raises:
        OSError: it is not there and cannot be fetched.
    """
    if path:
        return Path(path)
    import huggingface_hub

    names = [
        name for name in huggingface_hub.list_repo_files(repo_id, revision=revision) if is_metadata(name)
    ]
    return Path(huggingface_hub.snapshot_download(repo_id, revision=revision, allow_patterns=names))


def sources(spec: ModelSpec) -> list[tuple[str, Path]]:
    """The repositories whose metadata clients of this model need: its own and its adapters'."""
    found = [(spec.id, local_folder(spec.id, spec.path, spec.revision))]
    for adapter, path in spec.adapters.items():
        found.append((adapter, local_folder(adapter, path or None, None)))
    return found


async def send_metadata(client: httpx.AsyncClient, repo_id: str, folder: Path) -> None:
    """Upload every metadata file of the folder, and say which those are.

    Raises:
        httpx.HTTPError: the gateway did not take one of them.
    """
    names = []
    headers = {UPLOAD_HEADER: secrets.token_hex(8)}
    for name, path in metadata_files(folder):
        url = f"/edif/v1/worker/hub/{quote(repo_id)}/files/{quote(name)}"
        (await client.put(url, content=path.read_bytes(), headers=headers)).raise_for_status()
        names.append(name)
    (
        await client.post(
            f"/edif/v1/worker/hub/{quote(repo_id)}/files", json={"files": names}, headers=headers
        )
    ).raise_for_status()
    log.info("agent.metadata_sent", model=repo_id, files=len(names))
