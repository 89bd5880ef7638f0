"""Users, keys and roles on a running fabric: who is let in, who sees what, and how fast a change is seen."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from edif.core import errors
from tests.support.commands import run_forked
from tests.support.fabric import Fabric, start_fabric
from tests.support.models import GPT2_ID
from tests.support.replay import Replayer


@pytest.fixture(scope="module")
def fabric(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    """A fabric whose first users were added before its first start."""
    data = tmp_path_factory.mktemp("people") / "data"
    unstarted = Fabric(None, data, "", {})  # type: ignore[arg-type]  # only its command line is used
    unstarted.edif("users", "add", "ada", "--email", "ada@example.org")
    unstarted.edif("users", "add", "olga", "--role", "operator")
    running = start_fabric(data, "--model", f"{GPT2_ID}={models[GPT2_ID]}")
    running.wait_running(GPT2_ID)
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def keys(fabric: Fabric) -> dict[str, str]:
    return {name: fabric.edif("keys", "create", "--user", name)["key"] for name in ("ada", "olga")}


@pytest.fixture
async def ada(fabric: Fabric, blobs: Path, keys: dict[str, str]) -> AsyncIterator[Replayer]:
    async with Replayer(fabric.url, blobs, key=keys["ada"]) as client:
        yield client


def _code(answer: httpx.Response) -> str:
    return str(answer.json()["code"])


async def test_a_key_lets_its_user_in(ada: Replayer) -> None:
    assert (await ada.run("hello")).status == "COMPLETED"
    assert (await ada.get("/whoami")).json() == {"email": "ada@example.org", "tags": ["researcher"]}


async def test_every_route_needs_a_key_but_the_ones_the_client_calls_without(fabric: Fabric) -> None:
    closed = ["/whoami", "/response/j1", "/edif/v1/jobs", "/edif/v1/models", "/hub/api/models/tiny/gpt2"]
    opened = ["/ping", "/status", "/env"]
    async with httpx.AsyncClient(base_url=fabric.url) as http:
        for path in closed:
            assert _code(await http.get(path)) == errors.KEY_MISSING.code, path
        assert _code(await http.post("/request")) == errors.KEY_MISSING.code
        for path in opened:
            assert (await http.get(path)).status_code == 200, path
    with pytest.raises(InvalidStatus) as refused:
        async with connect(fabric.url.replace("http", "ws", 1) + "/subscribe", proxy=None):
            pass
    assert refused.value.response.status_code == 401


async def test_wrong_revoked_and_expired_keys_are_told_apart(fabric: Fabric, blobs: Path) -> None:
    revoked = fabric.edif("keys", "create", "--user", "ada")
    fabric.edif("keys", "revoke", revoked["id"])
    expired = fabric.edif("keys", "create", "--user", "ada", "--days", "0")
    for key, kind in (
        ("edif_wrong_key", errors.KEY_UNKNOWN),
        (revoked["key"], errors.KEY_REVOKED),
        (expired["key"], errors.KEY_EXPIRED),
    ):
        async with Replayer(fabric.url, blobs, key=key) as client:
            answer = await client.post("hello")
            assert (answer.status_code, _code(answer)) == (401, kind.code)


async def test_a_change_of_keys_is_seen_within_a_second(fabric: Fabric, blobs: Path) -> None:
    made = fabric.edif("keys", "create", "--user", "ada")
    async with Replayer(fabric.url, blobs, key=made["key"]) as client:
        assert (await client.get("/whoami")).json()["email"] == "ada@example.org"
        rotated = fabric.edif("keys", "rotate", made["id"])
        time.sleep(1.1)
        assert _code(await client.post("hello")) == errors.KEY_REVOKED.code
    async with Replayer(fabric.url, blobs, key=rotated["key"]) as client:
        assert (await client.get("/whoami")).json()["email"] == "ada@example.org"


async def test_a_removed_users_key_stops_working(fabric: Fabric, blobs: Path) -> None:
    fabric.edif("users", "add", "eve")
    key = fabric.edif("keys", "create", "--user", "eve")["key"]
    fabric.edif("users", "remove", "eve")
    async with Replayer(fabric.url, blobs, key=key) as client:
        assert _code(await client.post("hello")) == errors.KEY_REVOKED.code


async def test_an_upload_of_someone_who_is_erased_meanwhile_is_refused(fabric: Fabric, blobs: Path) -> None:
    fabric.edif("users", "add", "zoe")
    key = fabric.edif("keys", "create", "--user", "zoe")["key"]
    async with Replayer(fabric.url, blobs, key=key) as zoe:
        whole = zoe.request("hello")
        body = whole.read()

        async def slowly() -> AsyncIterator[bytes]:
            yield body[:-100]
            await asyncio.to_thread(fabric.edif, "users", "erase", "zoe", "--yes")
            yield body[-100:]

        answer = await zoe.send(slowly(), whole.headers)
    assert (answer.status_code, answer.json()["code"]) == (401, errors.KEY_REVOKED.code)
    assert "while the request came in" in answer.json()["detail"]
    assert "zoe" not in json.dumps(fabric.edif("jobs", "list", "--limit", "1000"))


async def test_a_job_is_its_owners_and_the_operators_only(
    fabric: Fabric, blobs: Path, ada: Replayer, keys: dict[str, str]
) -> None:
    fabric.edif("users", "add", "bob")
    bob_key = fabric.edif("keys", "create", "--user", "bob")["key"]
    job = (await ada.run("hello")).id
    async with Replayer(fabric.url, blobs, key=bob_key) as bob:
        for path in (f"/response/{job}", f"/edif/v1/jobs/{job}"):
            answer = await bob.get(path)
            assert (answer.status_code, _code(answer)) == (404, errors.JOB_UNKNOWN.code)
        cancel = httpx.post(f"{fabric.url}/edif/v1/jobs/{job}/cancel", headers={"ndif-api-key": bob_key})
        assert cancel.status_code == 404
        assert (await bob.get("/edif/v1/jobs")).json()["jobs"] == []
    async with Replayer(fabric.url, blobs, key=keys["olga"]) as olga:
        assert (await olga.get(f"/edif/v1/jobs/{job}")).json()["owner"] == "ada"
    assert job in {row["id"] for row in (await ada.get("/edif/v1/jobs")).json()["jobs"]}


async def test_a_session_serves_its_own_user_only(fabric: Fabric, blobs: Path, ada: Replayer) -> None:
    import json

    fabric.edif("users", "add", "mallory")
    key = fabric.edif("keys", "create", "--user", "mallory")["key"]
    address = fabric.url.replace("http", "ws", 1) + "/subscribe"
    async with connect(address, additional_headers={"ndif-api-key": key}, proxy=None) as socket:
        session = json.loads(await socket.recv())["session_id"]
        answer = await ada.post("hello", session)
        assert _code(answer) == errors.SESSION_UNKNOWN.code


async def test_deploying_is_for_operators(fabric: Fabric, keys: dict[str, str]) -> None:
    url = f"{fabric.url}/edif/v1/models/{GPT2_ID}/deploy"
    refused = httpx.post(url, headers={"ndif-api-key": keys["ada"]})
    assert (refused.status_code, _code(refused)) == (403, errors.ROLE_TOO_LOW.code)
    assert httpx.post(url, headers={"ndif-api-key": keys["olga"]}).status_code == 202


async def test_result_links_need_no_key_and_cannot_be_bent(fabric: Fabric, ada: Replayer) -> None:
    first, second = (await ada.run("hello")).id, (await ada.run("hello")).id
    link = str((await ada.poll(first))["data"])
    async with httpx.AsyncClient() as http:
        assert (await http.get(link)).status_code == 200
        for bent in (
            link.replace(first, second),
            link.replace("result/", "payload/"),
            link.replace("expires=1", "expires=2"),
            link[:-1] + ("0" if link[-1] != "0" else "1"),
            link.replace("purpose=get", "purpose=put"),
            link.split("?")[0],
        ):
            answer = await http.get(bent)
            assert (answer.status_code, _code(answer)) == (403, errors.LINK_INVALID.code), bent
        assert (await http.put(link, content=b"forged")).status_code == 403


async def test_an_edif_key_is_an_hf_token_for_the_mirror(fabric: Fabric, keys: dict[str, str]) -> None:
    url = f"{fabric.url}/hub/{GPT2_ID}/resolve/main/config.json"
    assert httpx.get(url, headers={"authorization": f"Bearer {keys['ada']}"}).json()["model_type"] == "gpt2"
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers={"authorization": "Bearer hf_nonsense"}).status_code == 401


def test_agents_need_the_worker_token(fabric: Fabric, keys: dict[str, str]) -> None:
    url = f"{fabric.url}/edif/v1/worker/hub/{GPT2_ID}/files/config.json"
    for secret in ("wrong", keys["olga"]):
        assert httpx.put(url, content=b"{}", headers={"authorization": f"Bearer {secret}"}).status_code == 401


def test_keys_are_stored_as_digests_only(fabric: Fabric, keys: dict[str, str]) -> None:
    for path in fabric.data.glob("records.sqlite*"):
        assert keys["ada"].encode() not in path.read_bytes()
    listed = fabric.edif("keys", "list", "--user", "ada")
    assert all("digest" not in key and "key" not in key for key in listed)


def test_the_local_command_line_acts_as_the_operator(fabric: Fabric) -> None:
    assert {row["model"] for row in fabric.edif("models", "list")} == {GPT2_ID}
    assert fabric.edif("status")["agents"] == 1


def test_a_laptops_command_line_asks_the_fabric_that_its_programs_use(
    fabric: Fabric, keys: dict[str, str], tmp_path: Path
) -> None:
    """With the variables that a stock client needs, and no data folder: that is who is told to cancel with ``edif``."""
    nowhere = {"EDIF_DATA": str(tmp_path / "none")}
    ada = {**fabric.client_environment(tmp_path, keys["ada"]), **nowhere}
    listed = run_forked(["jobs", "list", "--json"], ada)
    assert listed.returncode == 0, listed.stderr
    assert {job["owner"] for job in json.loads(listed.stdout)} <= {"ada"}
    unknown = run_forked(["jobs", "cancel", "j1"], ada)
    assert errors.JOB_UNKNOWN.code in unknown.stderr


def test_a_fabric_is_not_steered_by_a_clients_variables_alone(
    fabric: Fabric, keys: dict[str, str], tmp_path: Path
) -> None:
    nowhere = {"EDIF_DATA": str(tmp_path / "none")}
    olga = {**fabric.client_environment(tmp_path, keys["olga"]), **nowhere}
    for command in (["drain"], ["resume"], ["models", "evict", GPT2_ID], ["models", "deploy", GPT2_ID]):
        assert errors.GATEWAY_UNREACHABLE.code in run_forked(command, olga).stderr
    assert run_forked(["resume", "--url", fabric.url], olga).returncode == 0, "named, it is"


def test_users_that_exist_or_do_not_are_told(fabric: Fabric) -> None:
    assert "[user_exists]" in fabric.edif("users", "add", "ada", check=False)
    assert "[user_unknown]" in fabric.edif("users", "remove", "nobody", check=False)
    assert "[user_unknown]" in fabric.edif("keys", "create", "--user", "nobody", check=False)
    assert "[key_id_unknown]" in fabric.edif("keys", "revoke", "nokey", check=False)
    assert "[request_invalid]" in fabric.edif("users", "add", "a b", check=False)
