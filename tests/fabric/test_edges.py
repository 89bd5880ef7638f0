"""Links with ranges, the Hub mirror over HTTP, proxies, and what stops a fabric from starting."""

import asyncio
import contextlib
import os
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from edif.core import errors
from tests.fabric.conftest import PROXY
from tests.support.apart import agent_alone, gateway_alone
from tests.support.commands import run_forked
from tests.support.fabric import PATIENCE_S, Fabric, clean_environment, start_fabric
from tests.support.kept import check_kept_values, keep, use
from tests.support.models import GPT2_ID
from tests.support.proxy import prefix_proxy
from tests.support.replay import FINAL, Replayer
from tests.support.small_disk import small_disk
from tests.support.waiting import gateway_is_tried_until


async def test_a_result_link_resumes_by_range(client: Replayer) -> None:
    outcome = await client.run("hidden")
    link = str((await client.poll(outcome.id))["data"])
    async with httpx.AsyncClient() as http:
        whole = await http.get(link)
        assert whole.content == outcome.result
        assert int(whole.headers["content-length"]) == len(whole.content)
        assert whole.headers["accept-ranges"] == "bytes"
        part = await http.get(link, headers={"range": "bytes=100-"})
        assert (part.status_code, part.content) == (206, whole.content[100:])
        same = {"range": "bytes=0-9", "if-range": whole.headers["etag"]}
        assert (await http.get(link, headers=same)).status_code == 206
        outside = await http.get(link, headers={"range": "bytes=999999999-"})
        assert (outside.status_code, outside.json()["code"]) == (416, errors.RANGE_OUTSIDE.code)
        assert f"{len(whole.content)} bytes" in outside.json()["detail"]
        known = await http.get(link, headers={"if-none-match": f'"other", W/{whole.headers["etag"]}'})
        assert (known.status_code, known.content) == (304, b"")
        assert (await http.get(link, headers={"if-none-match": '"other"'})).status_code == 200
        head = await http.head(link)
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(whole.content)))


async def test_links_are_revoked_and_results_deleted(fabric: Fabric, client: Replayer) -> None:
    outcome = await client.run("hidden")
    revoke, delete = ("POST", f"jobs/{outcome.id}/revoke-links"), ("DELETE", f"jobs/{outcome.id}/result")
    results = fabric.data / "blobs" / "result"
    first = await client.poll(outcome.id)
    assert (await client.own(*revoke)).json() == {"id": outcome.id, "revocations": 1}
    with pytest.raises(httpx.HTTPStatusError, match="403"):
        await client.fetch(first)
    second = await client.poll(outcome.id)
    assert await client.fetch(second) == outcome.result
    assert fabric.edif("jobs", "revoke-links", outcome.id) == {"id": outcome.id, "revocations": 2}
    with pytest.raises(httpx.HTTPStatusError, match="403"):
        await client.fetch(second)
    third = await client.poll(outcome.id)
    assert await client.fetch(third) == outcome.result
    assert [path.name for path in results.glob(f"{outcome.id}*")] == [f"{outcome.id}-1-r2"]

    assert fabric.edif("jobs", "delete-result", outcome.id) == {"id": outcome.id, "deleted": True}
    assert not list(results.glob(f"{outcome.id}*"))
    with pytest.raises(httpx.HTTPStatusError, match="410"):
        await client.fetch(third)
    assert (await client.poll(outcome.id))["description"].endswith("[result_gone]")
    assert (await client.own(*delete)).status_code == 200
    assert "[result_gone]" in fabric.edif("jobs", "revoke-links", outcome.id, check=False)
    acts = [act["action"] for act in fabric.edif("audit", "list", "--about", outcome.id)]
    assert acts.count("result.links_revoked") == 2
    assert acts.count("result.deleted") == 1


async def test_a_job_that_runs_has_no_links_to_revoke_and_no_result_to_delete(client: Replayer) -> None:
    job = await client.submit("slow")
    await client.until_running(job)
    for method, end in (("POST", "revoke-links"), ("DELETE", "result")):
        answer = await client.own(method, f"jobs/{job}/{end}")
        assert (answer.status_code, answer.json()["code"]) == (409, errors.STATE_CONFLICT.code)
    assert (await client.poll(job))["status"] == "COMPLETED"


async def test_a_small_result_is_pushed_and_a_large_one_linked(client: Replayer) -> None:
    outcome = await client.run("hello")
    assert outcome.final.get("data") is None
    assert outcome.result is not None
    meta = outcome.final["meta"]
    assert meta["result_bytes"] == len(outcome.result)
    assert {"queue_s", "load_s", "run_s", "transfer_s", "tokens", "peak_memory_bytes"} <= set(meta)
    assert meta["tokens"] == 6


async def test_kept_values_are_fetched_and_used(client: Replayer) -> None:
    keeper = await check_kept_values(client)
    for job, code in ((keeper, None), ("j0", "job_unknown")):
        answer = await client.get(f"/edif/v1/jobs/{job}/kept")
        assert answer.json().get("code") == code
    plain = await client.run("hello")
    refused = await client.get(f"/edif/v1/jobs/{plain.id}/kept")
    assert (refused.status_code, refused.json()["code"]) == (410, "kept_gone")
    for uses, code in (
        ([plain.id], "kept_gone"),
        (["j0"], "job_unknown"),
        ([keeper] * 17, "envelope_invalid"),
        (["x" * 101], "envelope_invalid"),
        (keeper, "envelope_invalid"),
    ):
        assert (await client.post("hello", edif={"uses": uses})).json()["code"] == code
    unsent = await client.run("uses.raw")
    assert unsent.description.endswith("[payload_unreadable]")
    assert "a kept value that it was not sent with" in unsent.description


async def test_what_is_kept_goes_while_the_job_waits_that_uses_it(fabric: Fabric, client: Replayer) -> None:
    keeper = (await keep(client)).id
    fabric.edif("drain")
    try:
        waits = asyncio.create_task(use(client, keeper))
        while not any(
            each["state"] == "queued" for each in (await client.get("/edif/v1/jobs")).json()["jobs"]
        ):
            await asyncio.sleep(0.02)
        (fabric.data / "blobs" / "kept" / f"{keeper}-1").unlink()
    finally:
        fabric.edif("resume")
    gone = await waits
    assert gone.description.endswith("[kept_gone]")
    assert keeper in gone.description


def test_the_mirror_serves_metadata_and_never_weights(fabric: Fabric) -> None:
    fabric.wait_metadata(GPT2_ID)
    with httpx.Client(base_url=f"{fabric.url}/hub") as hub:
        info = hub.get(f"/api/models/{GPT2_ID}").json()
        assert info["id"] == GPT2_ID
        names = {sibling["rfilename"] for sibling in info["siblings"]}
        assert {"config.json", "tokenizer.json"} <= names
        assert not any(name.endswith(".safetensors") for name in names)
        assert hub.get(f"/api/models/{GPT2_ID}/revision/main").json()["sha"] == info["sha"]
        head = hub.head(f"/{GPT2_ID}/resolve/main/config.json")
        assert head.headers["x-repo-commit"] == info["sha"]
        assert head.headers["etag"]
        body = hub.get(f"/{GPT2_ID}/resolve/main/config.json")
        assert int(head.headers["content-length"]) == len(body.content)
        weights = hub.get(f"/{GPT2_ID}/resolve/main/model.safetensors")
        assert (weights.status_code, weights.json()["code"]) == (403, errors.HUB_NO_WEIGHTS.code)
        missing = hub.get(f"/{GPT2_ID}/resolve/main/no_such.json")
        assert (missing.status_code, missing.headers["x-error-code"]) == (404, "EntryNotFound")
        other = hub.get("/some/other/resolve/main/config.json")
        assert (other.status_code, other.headers["x-error-code"]) == (404, "RepoNotFound")
        assert "location" not in other.headers


async def _evict(fabric: Fabric) -> None:
    fabric.edif("models", "evict", GPT2_ID)
    async with asyncio.timeout(PATIENCE_S):
        while fabric.model_state(GPT2_ID) != "NOT_STARTED":
            await asyncio.sleep(0.1)


async def test_evicting_and_deploying(fabric: Fabric, client: Replayer) -> None:
    await _evict(fabric)
    outcome = await client.run("hello")  # a request brings it up again
    assert outcome.status == "COMPLETED"
    assert "DEPLOYING" in outcome.statuses
    assert outcome.final["meta"]["load_s"] > 0.5
    assert outcome.final["meta"]["queue_s"] < 5
    fabric.edif("models", "deploy", GPT2_ID)
    assert "[model_not_served]" in fabric.edif("models", "deploy", "no/such", check=False)


@pytest.mark.slow
async def test_a_model_that_cannot_load_says_why(fabric: Fabric, client: Replayer) -> None:
    weights = fabric.data.with_name("model") / "model.safetensors"
    whole = weights.read_bytes()
    await _evict(fabric)
    weights.write_bytes(b"these are not weights")
    try:
        outcome = await client.run("hello")
        assert outcome.status == "ERROR"
        assert outcome.description.endswith("[model_load_failed]")
        assert GPT2_ID in outcome.description
    finally:
        weights.write_bytes(whole)
    assert (await client.run("hello")).status == "COMPLETED"


async def test_result_links_follow_a_trusted_proxy_only(fabric: Fabric, client: Replayer) -> None:
    forwarded = {
        "x-forwarded-proto": "https",
        "x-forwarded-host": "lab.example.org",
        "x-forwarded-prefix": "/edif",
    }
    path = f"/response/{(await client.run('hello')).id}"
    proxy = httpx.AsyncHTTPTransport(local_address=PROXY)
    async with httpx.AsyncClient(base_url=fabric.url, transport=proxy) as trusted:
        link = (await trusted.get(path, headers=forwarded)).json()["data"]
    assert link.startswith("https://lab.example.org/edif/edif/v1/blobs/result/")
    assert (await client.get(path, **forwarded)).json()["data"].startswith(fabric.url)


def _serve(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_forked(list(arguments), clean_environment(**environment))


def _fails_with(done: subprocess.CompletedProcess[str], kind: errors.ErrorCode) -> None:
    assert done.returncode == 1, done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert last.endswith(f"[{kind.code}]"), last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["gateway", "serve"])
def test_a_taken_port_is_named(tmp_path: Path, command: str) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        done = _serve(command, "--demo", "--port", port, "--data", str(tmp_path / "d"))
    _fails_with(done, errors.PORT_TAKEN)
    assert port in done.stderr


def test_binding_elsewhere_without_keys_is_refused(tmp_path: Path) -> None:
    _fails_with(
        _serve("gateway", "--demo", "--host", "0.0.0.0", "--port", "0", "--data", str(tmp_path)),
        errors.OPEN_WITHOUT_KEYS,
    )


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _fails_with(
        _serve("gateway", "--demo", "--port", "0", "--data", str(tmp_path / "file" / "data")),
        errors.DATA_UNWRITABLE,
    )


def test_a_folder_from_a_newer_release_is_refused(tmp_path: Path) -> None:
    assert _serve("users", "list", "--data", str(tmp_path)).returncode == 0
    with sqlite3.connect(tmp_path / "records.sqlite") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    _fails_with(_serve("gateway", "--demo", "--port", "0", "--data", str(tmp_path)), errors.DATA_NEWER)


def test_a_second_fabric_on_the_same_folder_is_refused(fabric: Fabric) -> None:
    for command in ("gateway", "serve"):
        _fails_with(_serve(command, "--demo", "--port", "0", "--data", str(fabric.data)), errors.DATA_IN_USE)


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--model", "no/config=/tmp"], {}),
        (["--model", "/just/a/path"], {}),
        (["--demo", "--model", "edif/demo"], {}),
        (["--demo", "--config", "/no/such/edif.toml"], {}),
        (["--demo"], {"EDIF_TIME_LIMIT_S": "soon"}),
        (["--demo", "--public-url", "lab.example.org"], {}),
    ],
)
def test_a_configuration_that_does_not_fit_is_named(
    tmp_path: Path, arguments: list[str], environment: dict[str, str]
) -> None:
    done = _serve("serve", "--port", "0", "--data", str(tmp_path), *arguments, **environment)
    _fails_with(done, errors.CONFIG_INVALID)


def test_an_agent_without_gateway_or_token_says_so(tmp_path: Path) -> None:
    _fails_with(_serve("agent", "--data", str(tmp_path)), errors.CONFIG_INVALID)
    _fails_with(
        _serve("agent", "--data", str(tmp_path), "--gateway", "http://127.0.0.1:9"), errors.CONFIG_INVALID
    )


def test_an_agent_with_a_wrong_token_says_so(fabric: Fabric, tmp_path: Path) -> None:
    done = _serve("agent", "--data", str(tmp_path), "--gateway", fabric.url, EDIF_WORKER_TOKEN="wrong")
    _fails_with(done, errors.CONFIG_INVALID)


def test_no_gateway_is_told_with_the_next_step(tmp_path: Path) -> None:
    done = _serve("status", "--data", str(tmp_path))
    _fails_with(done, errors.GATEWAY_UNREACHABLE)
    assert "edif serve" in done.stderr


@contextlib.contextmanager
def _apart(
    model: Path, folder: Path, seen_as: Callable[[str], str] = str, **environment: str
) -> Iterator[str]:
    """A gateway and an agent that share no folder; yields the gateway's URL. The agent goes to ``seen_as`` of it.

    Args:
        environment: the gateway's ``EDIF_*`` variables.
    """
    with (
        gateway_alone(folder / "g", "--model", f"{GPT2_ID}={model}", **environment) as gateway,
        agent_alone(gateway, folder / "a", seen_as(gateway.url)),
    ):
        yield gateway.url


async def test_a_remote_agent_moves_bytes_over_http_and_a_cancel_may_come_meanwhile(
    models: dict[str, Path], blobs: Path, tmp_path: Path
) -> None:
    """An agent that does not share the gateway's folder fetches payloads and sends results by signed links."""
    async with prefix_proxy("") as proxy:

        def slowly(url: str) -> str:
            proxy.upstream = url
            return proxy.url

        with _apart(models[GPT2_ID], tmp_path, slowly) as url:
            async with Replayer(url, blobs) as client:
                assert (await client.run("hidden")).result
                calm = (await client.run("hello")).result
                assert "HttpTransfer" in (tmp_path / "a.log").read_text()
                await check_kept_values(client)
                proxy.bytes_per_s = 2**18  # most of a minute for what comes next
                before = proxy.passed
                job = await client.submit("large")
                async with asyncio.timeout(PATIENCE_S):
                    while proxy.passed < before + 2**18:
                        assert (await client.get(f"/response/{job}")).json()["status"] not in FINAL
                        await asyncio.sleep(0.05)
                answer = await client.cancel(job)
                assert answer.status_code == 202
                end = await client.poll(job, timeout_s=15)
                assert (end["status"], end["description"].endswith("[cancelled]")) == ("ERROR", True)
                assert not (tmp_path / "g" / "blobs" / "result" / f"{job}-1").exists()
                proxy.bytes_per_s = None
                assert (await client.run("hello")).result == calm
        assert not list((tmp_path / "a" / "spool").iterdir())
        assert not list((tmp_path / "g" / "blobs" / "tmp").iterdir())


@pytest.fixture(scope="module")
def on_small_disk(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Fabric]]:
    """A small file system, and a fabric whose data folder is on it."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    with small_disk(tmp_path_factory.mktemp("small") / "disk") as disk:
        fabric = start_fabric(
            disk / "data", "--model", f"{GPT2_ID}={models[GPT2_ID]}", EDIF_MIN_FREE_BYTES=str(4 * 2**20)
        )
        try:
            yield disk, fabric
        finally:
            fabric.stop()


async def test_a_full_disk_refuses_new_jobs_and_loses_none(
    on_small_disk: tuple[Path, Fabric], blobs: Path
) -> None:
    disk, fabric = on_small_disk
    async with Replayer(fabric.url, blobs) as client:
        before = await client.run("hello")
        waiting = await client.submit("slow")
        (disk / "filler").write_bytes(bytes(_free(disk) - 2 * 2**20))
        answer = await client.post("hello")
        assert (answer.status_code, answer.json()["code"]) == (507, errors.STORAGE_LOW.code)
        assert (await client.poll(waiting))["status"] == "COMPLETED"  # it was accepted before
        (disk / "filler").unlink()
        assert (await client.run("hello")).result == before.result
        too_much = await client.run("too_much")
        assert too_much.status == "ERROR"
        assert too_much.description.endswith("[storage_full]")
        assert (await client.run("hello")).result == before.result


@pytest.mark.slow
async def test_jobs_that_wait_or_run_when_the_disk_fills_up_end_as_ever_when_it_is_free_again(
    on_small_disk: tuple[Path, Fabric], blobs: Path
) -> None:
    """Not a byte is left for records, results and logs, until a while after the job that runs has come to its end."""
    disk, fabric = on_small_disk
    fabric.wait_running(GPT2_ID)
    async with Replayer(fabric.url, blobs) as client:
        calm = [(await client.run(name)).result for name in ("slow", "hello", "wave")]
        jobs = [await client.submit(name) for name in ("slow", "hello", "wave")]
        await client.until_running(jobs[0])
        _fill(disk)
        assert (await client.post("hello")).status_code == 507
        # Longer than the job runs; there is no room to log that its end cannot be kept.
        await asyncio.sleep(5)
        (disk / "filler").unlink()
        ends = [await client.poll(job) for job in jobs]
        assert [end["status"] for end in ends] == ["COMPLETED"] * 3
        assert [await client.fetch(end) for end in ends] == calm
        assert (await client.run("hello")).result == calm[1]


@pytest.mark.slow
async def test_a_gateway_waits_for_room_on_a_full_disk(
    on_small_disk: tuple[Path, Fabric], blobs: Path
) -> None:
    disk, fabric = on_small_disk
    _fill(disk)
    await gateway_is_tried_until(fabric, "storage_full", (disk / "filler").unlink)
    async with Replayer(fabric.url, blobs) as client:
        assert (await client.run("hello")).status == "COMPLETED"


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
async def test_a_remote_agent_holds_its_result_while_the_gateways_disk_is_full(
    models: dict[str, Path], blobs: Path, tmp_path: Path
) -> None:
    with (
        small_disk(tmp_path / "g") as disk,
        _apart(models[GPT2_ID], tmp_path, EDIF_MIN_FREE_BYTES=str(2**20)) as url,
    ):
        async with Replayer(url, blobs) as client:
            calm = (await client.run("slow")).result
            runs = await client.submit("slow")
            large = await client.submit("large")
            async with asyncio.timeout(60):
                while (await client.get(f"/response/{runs}")).json()["status"] != "RUNNING":
                    await asyncio.sleep(0.02)
            _fill(disk)
            async with asyncio.timeout(60):
                while "agent.result_held" not in (tmp_path / "a.log").read_text():
                    await asyncio.sleep(0.1)
            (disk / "filler").unlink()
            ends = [await client.poll(job) for job in (runs, large)]
            assert [(end["status"], end["meta"]["attempts"]) for end in ends] == [("COMPLETED", 1)] * 2
            assert await client.fetch(ends[0]) == calm


def _fill(disk: Path) -> None:
    """Take every byte that is left."""
    with contextlib.suppress(OSError), (disk / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def _free(folder: Path) -> int:
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


async def test_a_path_prefix_proxy_needs_only_the_public_url(
    models: dict[str, Path], blobs: Path, tmp_path: Path
) -> None:
    async with prefix_proxy("/lab/edif") as proxy:
        fabric = start_fabric(
            tmp_path / "data",
            "--model",
            f"{GPT2_ID}={models[GPT2_ID]}",
            "--public-url",
            proxy.url,
            EDIF_PUSH_BYTES="0",
        )
        try:
            proxy.upstream = fabric.url
            async with Replayer(proxy.url, blobs) as client:
                outcome = await client.run("hello")
                assert outcome.status == "COMPLETED"
                assert outcome.final["data"].startswith(f"{proxy.url}/edif/v1/blobs/result/")
                assert outcome.result
        finally:
            assert fabric.stop() == 0


async def test_the_same_idempotency_key_is_the_same_job(client: Replayer) -> None:
    headers = {"idempotency-key": "laptop-1"}
    first, second = (
        await client.submit("hello", headers=headers),
        await client.submit("hello", headers=headers),
    )
    assert first == second
    assert (await client.poll(first))["status"] == "COMPLETED"
    assert (await client.post("hello", headers=headers)).json()["status"] == "COMPLETED"


async def test_payloads_and_results_are_deleted_after_their_time(
    models: dict[str, Path], blobs: Path, tmp_path: Path
) -> None:
    fabric = start_fabric(tmp_path / "data", "--model", f"{GPT2_ID}={models[GPT2_ID]}", EDIF_RETENTION_S="1")
    try:
        async with Replayer(fabric.url, blobs) as client:
            outcome = await client.run("hello")
            kept = tmp_path / "data" / "blobs"
            async with asyncio.timeout(PATIENCE_S):
                while list((kept / "result").iterdir()) or (kept / "payload" / outcome.id).exists():
                    await asyncio.sleep(0.1)
            end = await client.poll(outcome.id)
            assert (end["status"], end["description"].endswith("[result_gone]")) == ("ERROR", True)
            assert fabric.edif("jobs", "show", outcome.id)["state"] == "completed"  # the record stays
    finally:
        assert fabric.stop() == 0
