"""The few routes of the Hugging Face Hub that a client needs, below ``/hub`` (set ``HF_ENDPOINT`` to it).

Source: ``huggingface_hub`` 1.x and 2.x, ``HfApi.model_info``, ``hf_hub_download`` and ``list_repo_tree``.
"""

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from edif.core import errors
from edif.core.errors import EdifError
from edif.gateway.description import BYTES, Answer, Asks, Operation
from edif.gateway.edge import Edge, answer_error, edge_of, json_answer

router = APIRouter(prefix="/hub")

# The Hub client turns these header values into its own exception classes.
_HUB_CODES = {
    errors.HUB_REPO_UNKNOWN.code: "RepoNotFound",
    errors.HUB_ENTRY_UNKNOWN.code: "EntryNotFound",
}


@router.get("/api/models/{repo:path}")
async def api_models(request: Request, repo: str) -> Response:
    """``{org}/{name}``, ``.../revision/{revision}`` and ``.../tree/{revision}[/{folder}]``."""
    edge = await _reader(request)
    repo, revision, tree = _split(repo)
    if tree:
        return _tree(edge, repo)
    return json_answer(await edge.hub.info(repo, revision))


@router.api_route("/{repo:path}/resolve/{revision}/{name:path}", methods=["GET", "HEAD"])
async def resolve(request: Request, repo: str, revision: str, name: str) -> Response:
    edge = await _reader(request)
    file = await edge.hub.file(repo, revision, name)
    return Response(
        b"" if request.method == "HEAD" else file.body,
        media_type="application/octet-stream",
        headers={
            "etag": f'"{file.etag}"',
            "x-repo-commit": file.commit,
            "content-length": str(len(file.body)),
        },
    )


@router.api_route("/{path:path}", methods=["GET", "HEAD", "POST"])
async def others(request: Request, path: str) -> Response:
    await _reader(request)
    raise EdifError(errors.HUB_ENTRY_UNKNOWN, f"The Hub mirror has no route {path[:80]!r}.")


def _tree(edge: Edge, repo: str) -> Response:
    files = edge.hub.files(repo)
    if files is None:
        raise EdifError(errors.HUB_ENTRY_UNKNOWN, f"The tree of {repo[:80]!r} is not mirrored.")
    entries = [
        {"type": "file", "path": name, "size": len(file.body), "oid": file.etag[:40]}
        for name, file in sorted(files.items())
    ]
    return json_answer(msgspec.json.encode(entries))


def _split(path: str) -> tuple[str, str, bool]:
    """Repository, revision, and whether its tree is asked for."""
    for mark, tree in (("/revision/", False), ("/tree/", True)):
        repo, found, rest = path.partition(mark)
        if found:
            return repo, rest.split("/")[0], tree
    return path, "main", False


async def _reader(request: Request) -> Edge:
    edge = edge_of(request)
    await edge.auth.identify(request)
    return edge


def hub_error(request: Request, error: EdifError) -> Response:
    """An error as the Hub client understands it."""
    answer = answer_error(request, error)
    answer.headers["x-error-message"] = error.detail.encode("ascii", "replace").decode()
    if error.code in _HUB_CODES:
        answer.headers["x-error-code"] = _HUB_CODES[error.code]
    return answer


_FAILS = (
    errors.HUB_REPO_UNKNOWN,
    errors.HUB_ENTRY_UNKNOWN,
    errors.HUB_UPSTREAM_FAILED,
)

described = [
    Operation(
        "GET",
        "/hub/api/models/{repo}",
        "A repository, also with /revision/REV or /tree/REV behind it, as the Hub describes it.",
        Asks.KEY,
        (Answer("An object; the tree is a list.", dict[str, Any] | list[dict[str, Any]]),),
        fails=_FAILS,
    ),
    *(
        Operation(
            method,
            "/hub/{repo}/resolve/{revision}/{name}",
            "One metadata file.",
            Asks.KEY,
            (Answer("The file.", media=BYTES, headers=("etag", "x-repo-commit")),),
            fails=(*_FAILS, errors.HUB_NO_WEIGHTS),
        )
        for method in ("GET", "HEAD")
    ),
    *(
        Operation(
            method,
            "/hub/{path}",
            "All else of a Hub, which the mirror does not have.",
            Asks.KEY,
            (),
            fails=(errors.HUB_ENTRY_UNKNOWN,),
        )
        for method in ("GET", "HEAD", "POST")
    ),
]
