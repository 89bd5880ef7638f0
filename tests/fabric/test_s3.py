"""A fabric whose payloads and results lie in S3: a real Object Gateway, which is also away for a while."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from edif.client.download import Download
from edif.client.lines import Lines
from tests.servers.radosgw import RadosGateway
from tests.support.fabric import EDIF, PATIENCE_S, Fabric, start_fabric
from tests.support.kept import check_kept_values, keep
from tests.support.models import GPT2_ID
from tests.support.replay import Replayer
from tests.support.waiting import eventually

PREFIX = "some/fabric"


@pytest.fixture(scope="module")
def bucket(radosgw: RadosGateway) -> str:
    return radosgw.new_bucket()


def in_bucket(server: RadosGateway, bucket: str) -> dict[str, str]:
    return {
        **server.environment(),
        "EDIF_BLOBS": f"s3://{bucket}/{PREFIX}",
        "EDIF_BLOBS_ENDPOINT": server.endpoint,
    }


@pytest.fixture(scope="module")
def fabric(
    models: dict[str, Path], radosgw: RadosGateway, bucket: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fabric]:
    running = start_fabric(
        tmp_path_factory.mktemp("fabric") / "data",
        *("--model", f"{GPT2_ID}={models[GPT2_ID]}", "--merge", "off"),  # one slot
        EDIF_MIN_FREE_BYTES="0",
        **in_bucket(radosgw, bucket),
    )
    running.wait_running(GPT2_ID)
    yield running
    assert running.stop() == 0


@pytest.fixture
async def client(fabric: Fabric, blobs: Path) -> AsyncIterator[Replayer]:
    async with Replayer(fabric.url, blobs) as replayer:
        yield replayer


def names(server: RadosGateway, bucket: str, kind: str) -> set[str]:
    """The blobs of a kind that lie in the bucket."""
    begin = f"{PREFIX}/{kind}/"
    return {key.removeprefix(begin) for key in server.objects(bucket) if key.startswith(begin)}


async def test_large_result_goes_from_the_node_to_the_bucket_and_from_there_to_the_client(
    fabric: Fabric, client: Replayer, radosgw: RadosGateway, bucket: str
) -> None:
    assert '"transfer": "BucketTransfer"' in fabric.log("agent")
    outcome = await client.run("large")
    link = str(outcome.final["data"])
    assert link.startswith(f"{radosgw.endpoint}/{bucket}/{PREFIX}/result/{outcome.id}-1?")
    assert outcome.result is not None
    assert outcome.final["meta"]["result_bytes"] == len(outcome.result)
    async with httpx.AsyncClient() as http:
        part = await http.get(link, headers={"range": "bytes=5000000-"})
        assert (part.status_code, part.content) == (206, outcome.result[5_000_000:])
    again = await client.poll(outcome.id)
    assert await client.fetch(again) == outcome.result
    assert "/edif/v1/blobs/" not in fabric.log("gateway"), "the gateway carried none of it"
    for kind in ("payload", "result"):
        assert not any((fabric.data / "blobs").glob(f"{kind}/*"))
    await eventually(lambda: asyncio.to_thread(lambda: outcome.id not in names(radosgw, bucket, "payload")))


async def test_connected_client_fetches_in_checked_pieces_and_asks_anew_when_the_link_has_ended(
    client: Replayer,
) -> None:
    outcome = await client.run("large")
    link, meta = str(outcome.final["data"]), outcome.final["meta"]
    ended = link.replace("X-Amz-Expires=", "X-Amz-Expires=1")
    asked: list[str] = []

    def renew() -> str:
        asked.append(link)
        return link

    def fetched() -> bytes:
        with httpx.Client() as http, closing(Lines(http, httpx.create_ssl_context())) as lines:
            whole = bytearray(meta["result_bytes"])
            download = Download(lines, ended, len(whole), renew, lambda _: None, lambda _: None)
            first = download.first()
            whole[: len(first)] = first
            for _ in download.rest(lambda at, size: memoryview(whole)[at : at + size]):
                pass
        return bytes(whole)

    got = await asyncio.to_thread(fetched)
    assert got == outcome.result
    assert hashlib.sha256(got).hexdigest() == meta["result_sha256"]
    assert asked == [link]


async def test_kept_values_go_by_the_bucket(client: Replayer, radosgw: RadosGateway, bucket: str) -> None:
    keeper = await check_kept_values(client)
    assert f"{keeper}-1-r1" in names(radosgw, bucket, "kept")
    radosgw.request("DELETE", bucket, f"{PREFIX}/kept/{keeper}-1-r1")
    assert (await client.get(f"/edif/v1/jobs/{keeper}/kept")).json()["code"] == "kept_gone"


async def test_presigned_links_are_revoked_while_one_downloads_and_results_deleted(
    client: Replayer, radosgw: RadosGateway, bucket: str
) -> None:
    outcome = await client.run("large")
    first, meta = str(outcome.final["data"]), outcome.final["meta"]
    renewed: list[str] = []

    def fresh() -> str:
        answer = httpx.get(f"{client.url}/response/{outcome.id}", headers=client.headers).json()
        renewed.append(answer["data"])
        return renewed[-1]

    def revoke() -> None:
        path = f"{client.url}/edif/v1/jobs/{outcome.id}/revoke-links"
        httpx.post(path, headers=client.headers).raise_for_status()

    def fetched() -> bytes:
        with httpx.Client() as http, closing(Lines(http, httpx.create_ssl_context())) as lines:
            whole = bytearray(meta["result_bytes"])
            download = Download(lines, first, len(whole), fresh, lambda _: None, lambda _: None)
            begun = download.first()
            whole[: len(begun)] = begun
            revoke()
            for _ in download.rest(lambda at, size: memoryview(whole)[at : at + size]):
                pass
        return bytes(whole)

    assert await asyncio.to_thread(fetched) == outcome.result
    assert len(renewed) == 1
    assert names(radosgw, bucket, "result") >= {f"{outcome.id}-1-r1"}
    assert f"{outcome.id}-1" not in names(radosgw, bucket, "result")
    async with httpx.AsyncClient() as http:
        assert (await http.get(first)).status_code == 404
        assert (await http.get(renewed[0])).content == outcome.result
        assert (await client.own("DELETE", f"jobs/{outcome.id}/result")).status_code == 200
        assert (await http.get(renewed[0])).status_code == 404
    assert not any(name.startswith(outcome.id) for name in names(radosgw, bucket, "result"))


async def test_nothing_is_revoked_or_deleted_by_halves_while_the_store_is_away(
    client: Replayer, radosgw: RadosGateway, bucket: str
) -> None:
    outcome = await client.run("large")
    radosgw.stop()
    try:
        for method, end in (("POST", "revoke-links"), ("DELETE", "result")):
            answer = await client.own(method, f"jobs/{outcome.id}/{end}")
            assert (answer.status_code, answer.json()["code"]) == (503, "blobs_unreachable")
        job = (await client.get(f"/edif/v1/jobs/{outcome.id}")).json()
        assert job.get("revocations", 0) == 0
    finally:
        radosgw.start()
    assert await client.fetch(await client.poll(outcome.id)) == outcome.result
    assert f"{outcome.id}-1" in names(radosgw, bucket, "result")


async def test_small_result_still_rides_the_status_socket(client: Replayer) -> None:
    outcome = await client.run("hello")
    assert outcome.status == "COMPLETED"
    assert outcome.final.get("data") is None
    assert outcome.result == await client.fetch(await client.poll(outcome.id))


async def test_store_that_is_away_while_jobs_end_loses_none_of_them(
    fabric: Fabric, client: Replayer, radosgw: RadosGateway, bucket: str
) -> None:
    """One runs while it goes away, one waits and cannot have its payload; new ones are refused in a sentence."""
    calm = (await client.run("slow")).result
    runs, waits = await client.submit("slow"), await client.submit("slow")
    await client.until_running(runs)
    radosgw.stop()
    try:
        refused = await client.post("hello")
        assert refused.status_code == 503
        assert refused.json()["code"] == "blobs_unreachable"
        assert "does not answer" in refused.json()["detail"]

        async def held() -> bool:
            return "agent.result_held" in fabric.log("agent")

        await eventually(held)
        assert (await client.get(f"/response/{runs}")).json()["status"] == "RUNNING"
    finally:
        radosgw.start()
    for job in (runs, waits):
        end = await client.poll(job)
        assert (end["status"], end["meta"]["attempts"]) == ("COMPLETED", 1)
        assert await client.fetch(end) == calm
    assert radosgw.unfinished_uploads(bucket) == []
    await eventually(lambda: asyncio.to_thread(lambda: not names(radosgw, bucket, "payload")))


async def test_gateway_that_dies_while_the_store_is_away_comes_up_with_it(
    fabric: Fabric, client: Replayer, radosgw: RadosGateway
) -> None:
    job = await client.submit("slow")
    await client.until_running(job)
    radosgw.stop()
    try:
        os.kill(fabric.pid("gateway"), signal.SIGKILL)

        async def said() -> bool:
            return "[blobs_unreachable]" in fabric.log("gateway")

        await eventually(said)
    finally:
        radosgw.start()
    end = await client.poll(job)
    assert (end["status"], end["meta"]["attempts"]) == ("COMPLETED", 1)
    await client.fetch(end)


async def test_result_that_the_store_lost_is_said_to_be_gone(
    client: Replayer, radosgw: RadosGateway, bucket: str
) -> None:
    outcome = await client.run("large")
    radosgw.request("DELETE", bucket, f"{PREFIX}/result/{outcome.id}-1")
    async with httpx.AsyncClient() as http:
        assert (await http.get(str(outcome.final["data"]))).status_code == 404
    frame = (await client.get(f"/response/{outcome.id}")).json()
    assert (frame["status"], frame["description"].endswith("[result_gone]")) == ("ERROR", True)


async def test_retention_and_erasure_delete_in_the_bucket(
    fabric: Fabric, client: Replayer, radosgw: RadosGateway, bucket: str
) -> None:
    outcome = await keep(client)
    for kind in ("result", "kept"):
        assert f"{outcome.id}-1" in names(radosgw, bucket, kind)
    brief = Fabric(
        fabric.process, fabric.data, fabric.url, {**fabric.environment, "EDIF_RETENTION_S": "0.001"}
    )
    assert brief.edif("retention", "run")["retired"] >= 1
    for kind in ("result", "kept"):
        assert f"{outcome.id}-1" not in names(radosgw, bucket, kind)
    assert (await client.get(f"/response/{outcome.id}")).json()["status"] == "ERROR"


def test_backup_says_what_it_does_not_hold(fabric: Fabric, bucket: str, tmp_path: Path) -> None:
    assert fabric.edif("backup", str(tmp_path / "one"))["blobs_elsewhere"] == f"s3://{bucket}/{PREFIX}"
    said = subprocess.run(
        [EDIF, "backup", str(tmp_path / "two"), "--data", str(fabric.data)],
        env=fabric.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (
        f"Payloads and results are not in it: they lie in s3://{bucket}/{PREFIX}" in said.stdout + said.stderr
    )


def doctor(fabric: Fabric, **changes: str) -> dict[str, str]:
    done = subprocess.run(
        [EDIF, "doctor", "--data", str(fabric.data), "--json"],
        env={**fabric.environment, **changes},
        capture_output=True,
        text=True,
        check=False,
    )
    findings = {each["what"]: each for each in json.loads(done.stdout)}
    found: dict[str, str] = findings["bucket"]
    return found


def test_doctor_tries_the_bucket_out(fabric: Fabric, radosgw: RadosGateway, bucket: str) -> None:
    before = radosgw.objects(bucket)
    assert doctor(fabric)["state"] == "ok"
    assert radosgw.objects(bucket) == before
    wrong = doctor(fabric, AWS_SECRET_ACCESS_KEY="wrong")
    assert (wrong["state"], "SignatureDoesNotMatch" in wrong["detail"]) == ("missing", True)
    assert "no-such-bucket" in doctor(fabric, EDIF_BLOBS="s3://no-such-bucket")["detail"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "blobs_denied"),
        ({"EDIF_BLOBS": "s3://no-such-bucket"}, "blobs_missing"),
        ({"EDIF_BLOBS_ENDPOINT": "http://127.0.0.1:9"}, "blobs_unreachable"),
        ({}, "config_invalid"),  # the place is taken by the fabric of this file
        ({"EDIF_BLOBS_CREDENTIALS": "/nowhere/keys"}, "config_invalid"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fabric_that_cannot_use_its_bucket_says_so_and_does_not_start(
    fabric: Fabric, tmp_path: Path, changes: dict[str, str], code: str
) -> None:
    done = subprocess.run(
        [EDIF, "serve", "--demo", "--port", "0", "--data", str(tmp_path / "data")],
        env={**fabric.environment, **changes},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1
    assert f"[{code}]" in done.stderr
