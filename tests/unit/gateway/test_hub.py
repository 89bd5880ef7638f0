"""The Hub mirror: what agents bring, what it keeps, and what it asks of an upstream Hub."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path

import httpx
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from edif.core import errors
from edif.core.errors import EdifError, ErrorCode, NotFound, Refused
from edif.core.ids import UserName
from edif.core.users import Role, User
from edif.gateway import hub_upstream
from edif.gateway.app import create_app
from edif.gateway.hub import HubMirror
from edif.gateway.hub_upstream import HubFile
from edif.models.metadata import revision_of
from edif.records.keys import mint
from edif.records.sql_store import SqlRecordStore
from tests.unit.gateway.conftest import EdgeMaker
from tests.unit.gateway.upstream import Answer, Upstream, run_upstream

REPO = "org/name"
FILES = {"config.json": b"{}", "sub/tokenizer.json": b'{"a": 1}', "README.md": b"# Card\n"}


def bring(mirror: HubMirror, repo: str = REPO, files: dict[str, bytes] = FILES) -> None:
    for name, body in files.items():
        mirror.receive(repo, name, body)
    mirror.publish(repo, list(files))


async def kind_of(
    error: type[EdifError], mirror: HubMirror, repo: str, revision: str, name: str
) -> ErrorCode:
    with pytest.raises(error) as refused:
        await mirror.file(repo, revision, name)
    return refused.value.kind


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "hub"


@pytest.fixture
def mirror(folder: Path) -> HubMirror:
    return HubMirror(folder, None)


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    monkeypatch.setenv("NO_PROXY", "*")
    with run_upstream() as server:
        yield server


@pytest.fixture
async def onward(folder: Path, upstream: Upstream) -> AsyncIterator[HubMirror]:
    """A mirror that has one repository of its own and asks upstream for others."""
    mirror = HubMirror(folder, upstream.url + "/")
    bring(mirror)
    yield mirror
    await mirror.close()


# -- what agents bring ---------------------------------------------------------------------------------
async def test_published_files_are_served_with_one_revision(mirror: HubMirror) -> None:
    bring(mirror)
    commit = revision_of(FILES)
    for name, body in FILES.items():
        expected = HubFile(body, sha256(body).hexdigest(), commit)
        assert await mirror.file(REPO, "main", name) == expected
        assert await mirror.file(REPO, commit, name) == expected
    info = json.loads(await mirror.info(REPO, "main"))
    assert (info["id"], info["modelId"], info["sha"], info["private"]) == (REPO, REPO, commit, False)
    assert [entry["rfilename"] for entry in info["siblings"]] == sorted(FILES)
    assert mirror.serves(REPO)


@pytest.mark.parametrize(
    ("card", "task"),
    [
        (b"---\npipeline_tag: fill-mask\n---\n", "fill-mask"),
        (b"---\nlicense: mit\npipeline_tag:text-generation \n---", "text-generation"),
        (b"pipeline_tags: fill-mask", "text-generation"),
        (b"", "text-generation"),
    ],
)
async def test_task_of_a_repository_is_that_of_its_card(mirror: HubMirror, card: bytes, task: str) -> None:
    bring(mirror, files={"README.md": card, "config.json": b"{}"})
    assert json.loads(await mirror.info(REPO, "main"))["pipeline_tag"] == task


async def test_nothing_is_served_before_all_files_have_come(mirror: HubMirror) -> None:
    mirror.receive(REPO, "config.json", b"{}")
    assert not mirror.serves(REPO)
    with pytest.raises(NotFound):
        await mirror.info(REPO, "main")
    with pytest.raises(Refused) as refused:
        mirror.publish(REPO, ["config.json", "tokenizer.json"])
    assert refused.value.kind is errors.REQUEST_INVALID
    assert "tokenizer.json" in refused.value.sentence
    assert not mirror.serves(REPO)


async def test_published_again_replaces_all_of_it(mirror: HubMirror, folder: Path) -> None:
    bring(mirror)
    bring(mirror, files={"config.json": b'{"new": true}'})
    assert (await mirror.file(REPO, "main", "config.json")).body == b'{"new": true}'
    assert await kind_of(NotFound, mirror, REPO, "main", "README.md") is errors.HUB_ENTRY_UNKNOWN
    versions = [path for path in folder.iterdir() if path.is_dir()]
    assert len(versions) == 1, "the earlier version is removed"


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.safetensors.index.json", "x.bin", "code.py", "../a.json"]
)
def test_what_is_no_metadata_is_not_taken(mirror: HubMirror, folder: Path, name: str) -> None:
    with pytest.raises(Refused) as refused:
        mirror.receive(REPO, name, b"")
    assert refused.value.kind is errors.REQUEST_INVALID
    assert list(folder.iterdir()) == []


BAD_REPOS = [
    "",
    "/",
    "org/",
    "/name",
    "a/b/c",
    "../name",
    "org/..",
    ".org/name",
    "org name",
    "org/na\nme",
    "-org/x",
]


@pytest.mark.parametrize("repo", BAD_REPOS)
def test_bad_repository_name_is_not_taken(mirror: HubMirror, folder: Path, repo: str) -> None:
    with pytest.raises(Refused) as refused:
        mirror.receive(repo, "config.json", b"{}")
    assert refused.value.kind is errors.REQUEST_INVALID
    assert list(folder.iterdir()) == []


@given(repo=st.text(st.sampled_from("ab/.-_~\\ \0é"), max_size=8), name=st.text(max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_is_ever_written_outside_the_folder(tmp_path: Path, repo: str, name: str) -> None:
    mirror = HubMirror(tmp_path / "deep" / "hub", None)
    before = set(tmp_path.iterdir())
    try:
        bring(mirror, repo, {f"{name}.json": b"{}"})
    except Refused:
        return
    assert set(tmp_path.iterdir()) == before
    assert set((tmp_path / "deep").iterdir()) == {tmp_path / "deep" / "hub"}


# -- across restarts -----------------------------------------------------------------------------------
async def test_mirror_serves_after_a_restart_what_it_served_before(mirror: HubMirror, folder: Path) -> None:
    bring(mirror)
    bring(mirror, "single", {"config.json": b"[]"})
    again = HubMirror(folder, None)
    for repo in (REPO, "single"):
        assert again.files(repo) == mirror.files(repo)
        assert await again.info(repo, "main") == await mirror.info(repo, "main")


async def test_files_that_were_not_published_are_forgotten(mirror: HubMirror, folder: Path) -> None:
    mirror.receive(REPO, "config.json", b"{}")
    assert not HubMirror(folder, None).serves(REPO)


async def test_repositories_with_similar_names_do_not_meet(mirror: HubMirror, folder: Path) -> None:
    bring(mirror, "a/b--c", {"config.json": b"1"})
    bring(mirror, "a--b/c", {"config.json": b"2"})
    for seen in (mirror, HubMirror(folder, None)):
        assert (await seen.file("a/b--c", "main", "config.json")).body == b"1"
        assert (await seen.file("a--b/c", "main", "config.json")).body == b"2"


async def test_crash_before_the_index_is_renamed_leaves_the_earlier_version(
    mirror: HubMirror, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(mirror)

    def crash(*_: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        bring(mirror, files={"config.json": b"new"})
    monkeypatch.undo()
    assert (await HubMirror(folder, None).file(REPO, "main", "config.json")).body == b"{}"


async def test_file_that_arrived_and_was_not_published_is_not_served(mirror: HubMirror, folder: Path) -> None:
    """An agent that died while it sent files leaves some behind; the next one publishes its own."""
    mirror.receive(REPO, "stale.json", b"{}")
    bring(mirror)
    assert mirror.files(REPO) == HubMirror(folder, None).files(REPO)
    assert await kind_of(NotFound, mirror, REPO, "main", "stale.json") is errors.HUB_ENTRY_UNKNOWN


# -- what clients may not have -------------------------------------------------------------------------
@pytest.mark.parametrize("repo", [REPO, "other/repo"])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "pytorch_model.bin", "sub/x.gguf", "model.safetensors.index.json", "A.BIN"]
)
async def test_weights_are_refused_before_anyone_is_asked(
    onward: HubMirror, upstream: Upstream, repo: str, name: str
) -> None:
    assert await kind_of(Refused, onward, repo, "main", name) is errors.HUB_NO_WEIGHTS
    assert upstream.asked == []


async def test_unknown_file_of_a_repository_of_its_own_is_not_asked_upstream(
    onward: HubMirror, upstream: Upstream
) -> None:
    assert await kind_of(NotFound, onward, REPO, "main", "vocab.json") is errors.HUB_ENTRY_UNKNOWN
    assert upstream.asked == []


async def test_without_upstream_other_repositories_are_unknown(mirror: HubMirror) -> None:
    assert await kind_of(NotFound, mirror, "other/repo", "main", "config.json") is errors.HUB_REPO_UNKNOWN
    with pytest.raises(NotFound):
        await mirror.info("other/repo", "main")


# -- upstream ------------------------------------------------------------------------------------------
CONFIG_PATH = "/other/repo/resolve/main/config.json"
INFO_PATH = "/api/models/other/repo/revision/main"


async def test_file_of_another_repository_comes_from_upstream_once(
    onward: HubMirror, upstream: Upstream
) -> None:
    upstream.answers[CONFIG_PATH] = Answer(b'{"up": 1}', headers={"x-repo-commit": "c" * 40})
    expected = HubFile(b'{"up": 1}', sha256(b'{"up": 1}').hexdigest(), "c" * 40)
    for _ in range(3):
        assert await onward.file("other/repo", "main", "config.json") == expected
    assert upstream.paths == [CONFIG_PATH]


async def test_info_of_another_repository_comes_from_upstream_once(
    onward: HubMirror, upstream: Upstream
) -> None:
    upstream.answers[INFO_PATH] = Answer(b'{"id": "other/repo"}')
    for _ in range(3):
        assert await onward.info("other/repo", "main") == b'{"id": "other/repo"}'
    assert upstream.paths == [INFO_PATH]


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_what_upstream_does_not_give_is_not_there(
    onward: HubMirror, upstream: Upstream, status: int
) -> None:
    upstream.answers[CONFIG_PATH] = Answer(b"secret", status)
    upstream.answers[INFO_PATH] = Answer(b"secret", status)
    for _ in range(2):
        kind = await kind_of(NotFound, onward, "other/repo", "main", "config.json")
        assert kind is errors.HUB_ENTRY_UNKNOWN
    assert upstream.paths == [CONFIG_PATH], "that it is not there is remembered"
    with pytest.raises(NotFound) as refused:
        await onward.info("other/repo", "main")
    assert refused.value.kind is errors.HUB_REPO_UNKNOWN


@pytest.mark.parametrize("status", [400, 429, 500, 503])
async def test_upstream_that_fails_is_asked_again(onward: HubMirror, upstream: Upstream, status: int) -> None:
    upstream.answers[CONFIG_PATH] = Answer(b"oops", status)
    kind = await kind_of(EdifError, onward, "other/repo", "main", "config.json")
    assert kind is errors.HUB_UPSTREAM_FAILED
    upstream.answers[CONFIG_PATH] = Answer(b"{}")
    assert (await onward.file("other/repo", "main", "config.json")).body == b"{}"


async def test_upstream_that_is_down_is_said_to_be_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with run_upstream() as gone:
        url = gone.url
    mirror = HubMirror(folder, url)
    assert await kind_of(EdifError, mirror, "a/b", "main", "config.json") is errors.HUB_UPSTREAM_FAILED
    await mirror.close()


async def test_upstream_that_does_not_answer_in_time(
    onward: HubMirror, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_upstream, "_TIMEOUT_S", 0.05)
    upstream.answers[CONFIG_PATH] = Answer(endless=True)
    kind = await kind_of(EdifError, onward, "other/repo", "main", "config.json")
    assert kind is errors.HUB_UPSTREAM_FAILED


@pytest.mark.parametrize("endless", [True, False])
async def test_upstream_that_sends_too_much_is_cut_off(
    onward: HubMirror, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, endless: bool
) -> None:
    monkeypatch.setattr(hub_upstream, "MAX_METADATA_BYTES", 200_000)
    upstream.answers[CONFIG_PATH] = Answer(b"x" * 200_001, endless=endless)
    kind = await kind_of(EdifError, onward, "other/repo", "main", "config.json")
    assert kind is errors.HUB_UPSTREAM_FAILED
    upstream.answers[CONFIG_PATH] = Answer(b"x" * 200_000)
    assert len((await onward.file("other/repo", "main", "config.json")).body) == 200_000


async def test_what_is_kept_of_upstream_is_bounded(
    folder: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_upstream, "_KEPT_BYTES", 10_000)
    mirror = HubMirror(folder, upstream.url)
    paths = [f"/other/repo/resolve/{n}/config.json" for n in range(4)]
    for path in paths:
        upstream.answers[path] = Answer(b"x" * 3000)
    for n in (0, 1, 2, 3, 3, 0):  # two fit
        await mirror.file("other/repo", str(n), "config.json")
    assert upstream.paths == [*paths, paths[0]]
    big = "/other/big/resolve/main/config.json"
    upstream.answers[big] = Answer(b"x" * 20_000)
    for _ in range(2):
        assert len((await mirror.file("other/big", "main", "config.json")).body) == 20_000
    assert upstream.paths[-2:] == [big, big], "what is larger than the cache is not kept"
    await mirror.close()


async def test_what_is_kept_of_upstream_grows_old(
    folder: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_upstream, "_KEPT_S", 0.05)
    mirror = HubMirror(folder, upstream.url)
    upstream.answers[CONFIG_PATH] = Answer(b"{}")
    for _ in range(2):
        await mirror.file("other/repo", "main", "config.json")
        await asyncio.sleep(0.1)
    assert upstream.paths == [CONFIG_PATH] * 2
    await mirror.close()


async def test_many_at_once_cost_one_fetch(onward: HubMirror, upstream: Upstream) -> None:
    upstream.answers[CONFIG_PATH] = Answer(b"{}")
    impatient = asyncio.create_task(onward.file("other/repo", "main", "config.json"))
    await asyncio.sleep(0)
    others = [asyncio.create_task(onward.file("other/repo", "main", "config.json")) for _ in range(40)]
    await asyncio.sleep(0)
    impatient.cancel()
    assert {file.body for file in await asyncio.gather(*others)} == {b"{}"}
    assert upstream.paths == [CONFIG_PATH]


async def test_uploads_that_are_never_finished_do_not_pile_up(mirror: HubMirror) -> None:
    for upload in range(100):
        mirror.receive(REPO, "config.json", b"{}", str(upload))
    assert len(mirror._arriving) < 10
    mirror.publish(REPO, ["config.json"], "99")
    assert mirror.serves(REPO)


async def test_redirects_of_upstream_are_followed_here_and_the_first_answers_commit_counts(
    onward: HubMirror, upstream: Upstream
) -> None:
    """The Hub redirects to its store of large files, which does not know the commit."""
    upstream.answers[CONFIG_PATH] = Answer(
        status=302, headers={"location": f"{upstream.url}/store/1", "x-repo-commit": "c" * 40}
    )
    upstream.answers["/store/1"] = Answer(b"{}", headers={"x-repo-commit": "no"})
    assert (await onward.file("other/repo", "main", "config.json")).commit == "c" * 40


async def test_redirects_without_end_are_given_up(onward: HubMirror, upstream: Upstream) -> None:
    upstream.answers[CONFIG_PATH] = Answer(status=302, headers={"location": CONFIG_PATH})
    kind = await kind_of(EdifError, onward, "other/repo", "main", "config.json")
    assert kind is errors.HUB_UPSTREAM_FAILED
    assert len(upstream.asked) <= 7


@pytest.mark.parametrize("repo", [*BAD_REPOS, "org/name?x=1", "org/name#x", "a%2Fb/c", "http://x/y"])
async def test_bad_repository_name_never_reaches_upstream(
    onward: HubMirror, upstream: Upstream, repo: str
) -> None:
    assert await kind_of(NotFound, onward, repo, "main", "config.json") is errors.HUB_REPO_UNKNOWN
    with pytest.raises(NotFound):
        await onward.info(repo, "main")
    assert upstream.asked == []


@pytest.mark.parametrize("revision", ["", "a/b", "x?y", "x#y", "a b", "x" * 101, "%2e%2e"])
async def test_bad_revision_never_reaches_upstream(
    onward: HubMirror, upstream: Upstream, revision: str
) -> None:
    assert await kind_of(NotFound, onward, "other/repo", revision, "config.json") is errors.HUB_REPO_UNKNOWN
    assert upstream.asked == []


@pytest.mark.parametrize("name", ["code.py", "../config.json", ".env", "a/../../config.json", "", "x.pkl"])
async def test_what_is_no_metadata_never_reaches_upstream(
    onward: HubMirror, upstream: Upstream, name: str
) -> None:
    assert await kind_of(NotFound, onward, "other/repo", "main", name) is errors.HUB_ENTRY_UNKNOWN
    assert upstream.asked == []


# -- over HTTP: credentials stay here ------------------------------------------------------------------
async def test_clients_credentials_are_not_passed_on_and_upstreams_headers_do_not_come_back(
    onward: HubMirror, upstream: Upstream, records: SqlRecordStore, edge_with: EdgeMaker
) -> None:
    secret, key = mint(UserName("ada"), 0.0, None)
    await records.add_user(User(UserName("ada"), Role.RESEARCHER, 0.0))
    await records.add_key(key)
    upstream.answers[CONFIG_PATH] = Answer(
        status=307,
        headers={"location": f"{upstream.url}/cdn/1", "set-cookie": "a=b", "x-repo-commit": "c" * 40},
    )
    upstream.answers["/cdn/1"] = Answer(b"{}", headers={"set-cookie": "c=d", "x-secret": "s"})
    upstream.answers[INFO_PATH] = Answer(b'{"id": "other/repo"}', headers={"set-cookie": "a=b"})
    transport = httpx.ASGITransport(app=create_app(edge_with(onward), records))
    sent = {
        "authorization": f"Bearer {secret}",
        "ndif-api-key": secret,
        "cookie": "session=mine",
        "x-forwarded-for": "10.0.0.1",
        "user-agent": "a client's own name",
    }
    async with httpx.AsyncClient(transport=transport, base_url="http://fabric", headers=sent) as client:
        file = await client.get("/hub" + CONFIG_PATH, follow_redirects=False)
        info = await client.get("/hub" + INFO_PATH, follow_redirects=False)
        head = await client.head("/hub" + CONFIG_PATH, follow_redirects=False)
        unknown = await client.get("/hub/other/repo/resolve/main/vocab.json", follow_redirects=False)
        weights = await client.get("/hub/other/repo/resolve/main/model.safetensors", follow_redirects=False)
    assert upstream.paths == [CONFIG_PATH, "/cdn/1", INFO_PATH, "/other/repo/resolve/main/vocab.json"]
    for _, headers in upstream.asked:
        assert not {"authorization", "ndif-api-key", "cookie", "x-forwarded-for"} & set(headers)
        assert secret not in str(headers)
        assert "a client's own name" not in str(headers)
    for answer in (file, info, head):
        assert answer.status_code == 200
        assert not {"location", "set-cookie", "x-secret"} & set(answer.headers)
    assert (file.content, file.headers["x-repo-commit"]) == (b"{}", "c" * 40)
    assert (head.content, head.headers["content-length"]) == (b"", "2")
    assert (unknown.status_code, unknown.headers["x-error-code"]) == (404, "EntryNotFound")
    assert weights.status_code == 403


async def test_mirror_asks_for_a_key_as_every_route_does(
    onward: HubMirror, upstream: Upstream, records: SqlRecordStore, edge_with: EdgeMaker
) -> None:
    await records.add_user(User(UserName("ada"), Role.RESEARCHER, 0.0))
    transport = httpx.ASGITransport(app=create_app(edge_with(onward), records))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for path in (CONFIG_PATH, INFO_PATH, f"/{REPO}/resolve/main/config.json"):
            assert (await client.get("/hub" + path)).status_code == 401
    assert upstream.asked == []
