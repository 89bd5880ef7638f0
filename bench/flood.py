"""20,000 bad requests of one user beside a good one, who sends small traces at a steady pace, in turn with calm.

Half of them are patient: over two hundred connections, all written before the first answer is read. The others are
not: each connection gives an answer up after about a second and connects anew.
"""

import asyncio
import contextlib
import json
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.fabric import Fabric
from tests.support.mint import mint
from tests.support.replay import HEADERS, Replayer

from bench.people import add_people, gateway_seconds, limit_queue
from bench.subjects import DEMO, DEMO_KEY, demo_fabric
from bench.tables import quantile, table

_REQUESTS = 20_000
_ROUNDS = 8
_CONNECTIONS = 200
_ROUND_S = 20.0
_PATIENCE_S = (0.5, 1.5)
_EVERY_S = 0.1
_SEED = 4
_KINDS = ("patient", "impatient")


def measure(work: Path) -> str:
    blobs = mint(DEMO, work / "blobs")
    keys = add_people(work / "data", ("good", "bad"))
    spawned = multiprocessing.get_context("spawn")
    with (
        demo_fabric(work, EDIF_ISOLATION="shared") as fabric,
        ProcessPoolExecutor(1, mp_context=spawned) as other,
    ):
        times, answers, cpu_s, seconds = asyncio.run(_rounds(fabric, blobs, keys, other))
    rows = [
        (
            name,
            len(found),
            *(
                f"{quantile(found, q) * 1000:.1f} ({quantile(found, q) / quantile(times['calm'], q):.2f}x)"
                for q in (0.5, 0.99)
            ),
            f"{max(found) * 1000:.1f}",
        )
        for name, found in times.items()
    ]
    title = f"{_REQUESTS:,} bad requests of one user beside a good one who sends {1 / _EVERY_S:.0f} small traces a second"
    codes = ", ".join(f"{number} x {code}" for code, number in answers.most_common())
    return (
        f"{table(title, ('flood', 'traces', 'p50, ms', 'p99, ms', 'most, ms'), rows)}\n"
        f"Processor time of the gateway: {cpu_s / seconds:.2f} of one core, the good user's jobs included. Answers: {codes}.\n"
    )


async def _rounds(
    fabric: Fabric, blobs: Path, keys: dict[str, str], other: ProcessPoolExecutor
) -> tuple[dict[str, list[float]], Counter[str], float, float]:
    loop = asyncio.get_running_loop()
    times: dict[str, list[float]] = {"calm": [], **{kind: [] for kind in _KINDS}}
    answers: Counter[str] = Counter()
    cpu_s = seconds = 0.0
    blob = (blobs / "hidden.zst").read_bytes()
    async with Replayer(fabric.url, blobs, model="edif/demo", key=keys["good"]) as good:
        for _ in range(20):
            await good.run("hidden")
        for number in range(_ROUNDS):
            # In half of the rounds the bad user's quota is used up: then every post is refused before it is read.
            await limit_queue(fabric.data, "bad", 0 if number // 2 % 2 else None)
            began, cpu = time.perf_counter(), gateway_seconds(fabric)
            kind, count = _KINDS[number % 2], _REQUESTS // _ROUNDS
            flood = loop.run_in_executor(
                other, send_flood, fabric.url, keys["bad"], blob, count, kind == "patient", _SEED + number
            )
            times[kind] += await _steadily(good, flood.done)
            answers += await flood
            cpu_s += gateway_seconds(fabric) - cpu
            length = time.perf_counter() - began
            seconds += length
            ends = loop.time() + length
            times["calm"] += await _steadily(good, lambda: loop.time() > ends)  # noqa: B023 - it is done before the next round
    return times, answers, cpu_s, seconds


async def _steadily(good: Replayer, over: Callable[[], bool]) -> list[float]:
    """Begin a trace at every beat, whether the last one has ended or not; the time of each."""
    running = []
    beat = time.perf_counter()
    while not over():
        running.append(asyncio.create_task(good.run("hidden")))
        beat += _EVERY_S
        await asyncio.sleep(max(0.0, beat - time.perf_counter()))
    outcomes = await asyncio.gather(*running)
    assert all(outcome.status == "COMPLETED" for outcome in outcomes)
    return [outcome.seconds for outcome in outcomes]


# -- the flood, in a process of its own --------------------------------------------------------------------
def send_flood(url: str, key: str, blob: bytes, count: int, patient: bool, seed: int) -> "Counter[str]":
    """Send so many bad requests, for twenty seconds at the most; the statuses that were read."""
    choose = random.Random(seed)
    requests = [_bad_request(choose, key, blob) for _ in range(count)]
    shares = [requests[first::_CONNECTIONS] for first in range(_CONNECTIONS)]
    return asyncio.run(_flood(url, shares, choose, patient=patient))


async def _flood(
    url: str, shares: list[list[bytes]], choose: random.Random, *, patient: bool
) -> "Counter[str]":
    address = urlsplit(url)
    answers: Counter[str] = Counter()

    async def all_at_once(requests: list[bytes]) -> None:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        for request in requests:
            writer.write(request)
        ends = False
        while not ends:
            status, ends = await _answer(reader)
            answers[status] += 1

    async def one_by_one(requests: list[bytes]) -> None:
        streams = None
        for request in requests:
            if streams is None:
                streams = await asyncio.open_connection(address.hostname, address.port)
            try:
                async with asyncio.timeout(choose.uniform(*_PATIENCE_S)):
                    streams[1].write(request)
                    status, ends = await _answer(streams[0])
            except TimeoutError:
                status, ends = "given up", True
            answers[status] += 1
            if ends:
                streams[1].close()
                streams = None

    send = all_at_once if patient else one_by_one
    floods = asyncio.gather(*map(send, shares))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ROUND_S):
            await floods
    answers["not answered"] += sum(map(len, shares)) - answers.total()
    return answers


async def _answer(reader: asyncio.StreamReader) -> tuple[str, bool]:
    """The next answer's status, and whether the connection ends with it."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        await reader.readexactly(int(lines.get("content-length", 0)))
    except (ConnectionError, asyncio.IncompleteReadError):
        return "cut off", True
    return head.split()[1], lines.get("connection") == "close"


def _bad_request(choose: random.Random, key: str, blob: bytes) -> bytes:
    good = {"model_key": DEMO_KEY, "session_id": "", "compress": True, "env": {}}
    kind = choose.randrange(6)
    if kind == 0:
        return _post(key, "{" * choose.randrange(1, 2000), blob)
    if kind == 1:
        return _post(
            key, json.dumps(good | {"model_key": DEMO_KEY.replace("demo", f"demo{choose.random()}")}), blob
        )
    if kind == 2:
        return _post(key, json.dumps(good | {"session_id": "nobody"}), blob)
    if kind == 3:
        return _post(key, json.dumps(good), b"not zstd" + choose.randbytes(500))
    if kind == 4:
        return _post(f"edif_{choose.randbytes(20).hex()}", json.dumps(good), blob)
    return _post(key, json.dumps(good), blob, f"x-large: {'x' * 6000}\r\n" * 4)


def _post(key: str, envelope: str, blob: bytes, more_headers: str = "") -> bytes:
    body = (
        b'--edge\r\ncontent-disposition: form-data; name="data"\r\n\r\n'
        + envelope.encode()
        + b'\r\n--edge\r\ncontent-disposition: form-data; name="blob"; filename="request"\r\n'
        + b"content-type: application/octet-stream\r\n\r\n"
        + blob
        + b"\r\n--edge--\r\n"
    )
    sent = {**HEADERS, "ndif-api-key": key, "content-type": "multipart/form-data; boundary=edge"}
    head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    return (
        f"POST /request HTTP/1.1\r\nhost: fabric\r\n{head}{more_headers}content-length: {len(body)}\r\n\r\n".encode()
        + body
    )
