"""Bad input gets a clear error with its code, and neither loses nor disturbs anything."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard
from websockets.asyncio.client import connect

from edif.core import errors
from tests.fabric.conftest import TIME_LIMIT_S
from tests.support.fabric import Fabric
from tests.support.replay import Replayer


@pytest.fixture(autouse=True)
async def undisturbed(client: Replayer) -> AsyncIterator[None]:
    """After every bad thing, an ordinary job has the result that it had before."""
    before = await client.run("hello")
    assert before.status == "COMPLETED"
    yield
    after = await client.run("hello")
    assert after.result == before.result


def _refused(answer: httpx.Response, kind: errors.ErrorCode) -> None:
    assert answer.status_code == kind.http_status, answer.text
    body = answer.json()
    assert body["code"] == kind.code
    assert body["detail"].endswith(f"[{kind.code}]")
    assert kind.next_step.split(":")[0] in body["detail"] or len(body["detail"]) > 60


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"model_key": "nonsense"}, errors.MODEL_KEY_INVALID),
        ({"model_key": "os.system:{}"}, errors.MODEL_KEY_INVALID),
        (
            {"model_key": 'nnsight.modeling.transformers.TransformersModel:{"repo_id": "no/such"}'},
            errors.MODEL_NOT_SERVED,
        ),
        (
            {
                "model_key": 'nnsight.modeling.transformers.TransformersModel:{"repo_id": "tiny/gpt2", "revision": "v9"}'
            },
            errors.MODEL_NOT_SERVED,
        ),
        ({"session_id": "s-unknown"}, errors.SESSION_UNKNOWN),
        ({"env": {"peft": "some/adapter"}}, errors.ENV_NOT_ALLOWED),
        ({"env": {"attn_implementation": "flash_attention_9"}}, errors.ENV_NOT_ALLOWED),
        ({"compress": "yes"}, errors.ENVELOPE_INVALID),
        ({"blob": b"this is not zstd"}, errors.PAYLOAD_NOT_ZSTD),
        ({"blob": b"x" * (3 * 2**20)}, errors.BODY_TOO_LARGE),
        ({"blob": zstandard.ZstdCompressor().compress(bytes(9 * 2**20))}, errors.PAYLOAD_BOMB),
        ({"headers": {"nnsight-version": "0.7.2"}}, errors.CLIENT_TOO_OLD),
        ({"headers": {"nnsight-version": "0.9.0"}}, errors.CLIENT_UNSUPPORTED),
        ({"headers": {"python-version": "3.8.1"}}, errors.PYTHON_UNSUPPORTED),
    ],
    ids=lambda value: value.code if isinstance(value, errors.ErrorCode) else next(iter(value)),
)
async def test_a_bad_request_is_refused(
    client: Replayer, changes: dict[str, Any], kind: errors.ErrorCode
) -> None:
    session_id = changes.pop("session_id", "")
    _refused(await client.post("hello", session_id, **changes), kind)


@pytest.mark.parametrize(
    ("body", "content_type", "kind"),
    [
        (b"{}", "application/json", errors.BODY_NOT_MULTIPART),
        (b"--x\r\nbroken", "multipart/form-data; boundary=x", errors.ENVELOPE_INVALID),
        (b"nothing", "multipart/form-data", errors.BODY_NOT_MULTIPART),
        (
            b'--x\r\nContent-Disposition: form-data; name="data"\r\n\r\nnot json\r\n--x\r\n'
            b'Content-Disposition: form-data; name="blob"; filename="b"\r\n\r\n1\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            errors.ENVELOPE_INVALID,
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="data"\r\n\r\n{"session_id": ""}\r\n--x\r\n'
            b'Content-Disposition: form-data; name="blob"; filename="b"\r\n\r\n1\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            errors.ENVELOPE_INVALID,
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="data"\r\n\r\n{}\r\n--x\r\n'
            b'Content-Disposition: form-data; name="blob"; filename="b"\r\n\r\nhalf of',
            "multipart/form-data; boundary=x",
            errors.BODY_TRUNCATED,
        ),
        *(
            (
                b'--x\r\nContent-Disposition: form-data; name="data"\r\n\r\n-'
                + b"b" * 2000
                + b"\r\n--x--\r\n",
                f"multipart/form-data; boundary=x; charset={charset}",
                errors.BODY_NOT_MULTIPART,
            )
            for charset in ("punycode", "undefined", "utf-7")
        ),
    ],
    ids=[
        *("json", "broken", "no boundary", "not json", "field missing", "truncated"),
        *("slow charset", "no charset", "other charset"),
    ],
)
async def test_a_malformed_body_is_refused(
    fabric: Fabric, body: bytes, content_type: str, kind: errors.ErrorCode
) -> None:
    async with httpx.AsyncClient() as http:
        answer = await http.post(
            f"{fabric.url}/request", content=body, headers={"content-type": content_type}
        )
    _refused(answer, kind)


async def test_an_old_client_gets_an_answer_that_it_displays(fabric: Fabric) -> None:
    """nnsight 0.5-0.7: a Socket.IO connection, then a raw post whose `detail` it shows."""
    address = fabric.url.replace("http", "ws", 1) + "/ws/socket.io/?transport=websocket&EIO=4"
    async with connect(address, proxy=None) as socket:
        assert str(await socket.recv()).startswith("0{")
        await socket.send("40")
        assert str(await socket.recv()).startswith("40{")
        async with httpx.AsyncClient() as http:
            answer = await http.post(
                f"{fabric.url}/request",
                content=b"payload",
                headers={"nnsight-model-key": "x", "nnsight-version": "0.5.1", "nnsight-compress": "True"},
            )
    _refused(answer, errors.CLIENT_TOO_OLD)
    assert "pip install 'nnsight==0.8.1'" in answer.json()["detail"]


def _bomb_without_size() -> bytes:
    writer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return writer.compress(bytes(64 * 2**20)) + writer.flush()


@pytest.mark.parametrize(
    ("name", "changes", "code"),
    [
        ("raises", {}, "user_code"),
        ("wrong_order", {}, "user_code"),
        ("no_such_module", {}, "user_code"),
        ("unpicklable", {}, "result_unpicklable"),
        ("too_much", {}, "result_too_large"),
        ("endless", {}, "time_limit"),
        ("endless_in_c", {}, "time_limit"),
        ("exits", {}, "replica_lost"),
        ("segfault", {}, "replica_lost"),
        ("hello", {"blob": b"not a pickle", "compress": False}, "payload_unreadable"),
        ("hello", {"blob": _bomb_without_size()}, "payload_bomb"),
        ("hello", {"blob": zstandard.ZstdCompressor().compress(b"x" * 9000)[:-3]}, "payload_corrupt"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_a_bad_job_ends_with_its_reason(
    fabric: Fabric, client: Replayer, name: str, changes: dict[str, Any], code: str
) -> None:
    outcome = await client.run(name, **changes)
    assert outcome.status == "ERROR"
    shown = fabric.edif("jobs", "show", outcome.id)
    assert (shown["state"], shown["error_code"]) == ("failed", code)
    if code != "user_code":
        assert outcome.description.endswith(f"[{code}]")
    assert outcome.final["meta"]["total_s"] > 0
    # The final status is kept for whoever asks later.
    assert (await client.poll(outcome.id))["description"] == outcome.description


async def test_a_user_sees_own_lines_only(client: Replayer) -> None:
    text = (await client.run("raises")).description
    assert "y = x[10000]" in text
    assert "IndexError" in text
    assert "programs.py" in text
    for internal in ("site-packages", "edif/executor", "interleave"):
        assert internal not in text


async def test_the_time_limit_is_named(client: Replayer) -> None:
    assert f"{TIME_LIMIT_S} seconds" in (await client.run("endless")).description


async def test_print_arrives_as_log_lines(client: Replayer) -> None:
    outcome = await client.run("prints")
    logs = [frame["description"] for frame in outcome.frames if frame["status"] == "LOG"]
    assert logs == ["hello from the trace"]
    assert outcome.status == "COMPLETED"


async def test_a_flood_of_output_is_cut_with_a_notice(client: Replayer) -> None:
    outcome = await client.run("flood")
    logs = [frame["description"] for frame in outcome.frames if frame["status"] == "LOG"]
    assert outcome.status == "COMPLETED"
    assert "the rest of the output was cut" in logs[-1]
    assert sum(len(text) for text in logs) < 21_000


@pytest.mark.parametrize("name", ["edits_weights", "leaves_hooks"])
async def test_what_a_job_leaves_behind_does_not_reach_the_next(
    client: Replayer, fabric: Fabric, name: str
) -> None:
    before = await client.run("hidden")
    assert (await client.run(name)).status == "COMPLETED"
    assert (await client.run("hidden")).result == before.result
    assert "replica.runner_replaced" in fabric.log("agent")


async def test_a_client_that_leaves_disturbs_nothing(fabric: Fabric, client: Replayer) -> None:
    address = fabric.url.replace("http", "ws", 1) + "/subscribe"
    jobs = []
    for _ in range(5):
        async with connect(address, proxy=None) as socket:
            session = json.loads(await socket.recv())["session_id"]
            jobs.append((await client.post("hello", session)).json()["id"])
    assert {(await client.poll(job))["status"] for job in jobs} == {"COMPLETED"}


async def test_unknown_routes_and_jobs_are_404(fabric: Fabric, client: Replayer) -> None:
    async with httpx.AsyncClient(base_url=fabric.url) as http:
        _refused(await http.get("/nothing/here"), errors.ROUTE_UNKNOWN)
        _refused(await http.get("/response/jnone"), errors.JOB_UNKNOWN)
        _refused(await http.get("/edif/v1/jobs/jnone"), errors.JOB_UNKNOWN)


async def test_web_pages_cannot_reach_an_open_fabric(fabric: Fabric) -> None:
    """A fabric without users must not take requests that a browser was made to send, or by another name."""
    async with httpx.AsyncClient(base_url=fabric.url) as http:
        for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}):
            _refused(await http.post("/request", headers=headers), errors.KEY_MISSING)


def test_a_key_is_not_needed_and_anyone_is_the_operator(fabric: Fabric, blobs: Path) -> None:
    assert httpx.get(f"{fabric.url}/whoami").json() == {"email": "local", "tags": ["operator"]}
