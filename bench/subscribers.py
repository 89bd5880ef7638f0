"""5,000 open status sockets on one gateway: what each costs, and how long it takes to tell all of them something."""

import asyncio
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.fabric import Fabric
from tests.support.mint import mint
from tests.support.replay import Replayer
from websockets.asyncio.client import ClientConnection, connect

from bench.people import gateway_bytes, gateway_seconds
from bench.subjects import DEMO, demo_fabric
from bench.tables import quantile, spread, table

_SUBSCRIBERS = 5000
_AT_ONCE = 64
_TRACES = 40
_SETTLE_S = 3.0
_FAN_OUT_S = 90.0
_PING_S = 0.02


@dataclass
class _Subscriber:
    """One socket. ``told`` has the moments (perf_counter) at which each sentence arrived."""

    socket: ClientConnection
    session: str
    told: dict[str, float] = field(default_factory=dict)

    async def listen(self) -> None:
        async for message in self.socket:
            if isinstance(message, str):
                self.told.setdefault(json.loads(message)["description"], time.perf_counter())


def measure(work: Path) -> str:
    blobs = mint(DEMO, work / "blobs")
    most = str(2 * _SUBSCRIBERS + 1000)
    limits = {"EDIF_MAX_CONNECTIONS": most, "EDIF_MAX_CONNECTIONS_PER_ADDRESS": most}
    # The good client is a process of its own: what it measures is the gateway's delay and not this process's.
    spawned = multiprocessing.get_context("spawn")
    with demo_fabric(work, **limits) as fabric, ProcessPoolExecutor(1, mp_context=spawned) as other:
        rows = asyncio.run(_measure(fabric, blobs, other))
    return table(f"{_SUBSCRIBERS:,} status sockets on one gateway", ("", "measured"), rows)


async def _measure(fabric: Fabric, blobs: Path, other: ProcessPoolExecutor) -> list[tuple[str, str]]:
    loop = asyncio.get_running_loop()
    alone = await loop.run_in_executor(other, good_client, fabric.url, blobs)
    bytes_before = gateway_bytes(fabric)
    async with AsyncExitStack() as stack:
        began, cpu = time.perf_counter(), gateway_seconds(fabric)
        subscribers = await _subscribe(fabric.url, stack)
        connecting_s, connecting_cpu_s = time.perf_counter() - began, gateway_seconds(fabric) - cpu
        await asyncio.sleep(_SETTLE_S)
        each = (gateway_bytes(fabric) - bytes_before) / len(subscribers)
        beside = await loop.run_in_executor(other, good_client, fabric.url, blobs)
        posting_s = await _queue_jobs(fabric.url, blobs, subscribers)
        bytes_queued = gateway_bytes(fabric)
        fan_out_s, pings = await _tell_all(fabric.url, subscribers, other)
    return [
        ("memory of one (PSS), KiB", f"{each / 1024:.1f}"),
        ("opened in one second", f"{len(subscribers) / connecting_s:.0f}"),
        ("processor time of opening one, ms", f"{connecting_cpu_s / len(subscribers) * 1000:.2f}"),
        (f"good client, {_TRACES} small traces, ms, without them", spread(alone, 0.001)),
        ("the same beside them", spread(beside, 0.001)),
        ("p99 of both, ms", f"{quantile(alone, 0.99) * 1000:.1f}, {quantile(beside, 0.99) * 1000:.1f}"),
        ("jobs taken in one second, one job for each socket", f"{len(subscribers) / posting_s:.0f}"),
        ("gateway with all of them and their jobs (PSS), MiB", f"{bytes_queued / 2**20:.0f}"),
        ("one sentence told to all: first frame to last, s", f"{fan_out_s:.2f}"),
        ("longest that a ping waited meanwhile, s", f"{max(pings):.2f}"),
    ]


def good_client(url: str, blobs: Path) -> list[float]:
    """The times of some small traces."""

    async def run() -> list[float]:
        async with Replayer(url, blobs, model="edif/demo") as client:
            for _ in range(10):
                await client.run("hidden")
            return [(await client.run("hidden")).seconds for _ in range(_TRACES)]

    return asyncio.run(run())


def pings(url: str, seconds: float) -> list[float]:
    """How long each of many pings took."""

    async def run() -> list[float]:
        times = []
        async with Replayer(url, Path()) as client:
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                began = time.monotonic()
                await client.get("/ping")
                times.append(time.monotonic() - began)
                await asyncio.sleep(_PING_S)
        return times

    return asyncio.run(run())


async def _subscribe(url: str, stack: AsyncExitStack) -> list[_Subscriber]:
    address = url.replace("http", "ws", 1) + "/subscribe"
    tasks = await stack.enter_async_context(asyncio.TaskGroup())
    listeners: list[asyncio.Task[None]] = []
    stack.callback(lambda: [task.cancel() for task in listeners])
    turn = asyncio.Semaphore(_AT_ONCE)

    async def one() -> _Subscriber:
        async with turn:
            # As the stock client: it sends no pings of its own.
            socket = await connect(address, proxy=None, compression=None, ping_interval=None)
            subscriber = _Subscriber(socket, json.loads(await socket.recv())["session_id"])
        listeners.append(tasks.create_task(subscriber.listen()))
        return subscriber

    return await asyncio.gather(*(one() for _ in range(_SUBSCRIBERS)))


async def _queue_jobs(url: str, blobs: Path, subscribers: list[_Subscriber]) -> float:
    """One waiting job for each socket, while the model is down; the seconds that it took."""
    async with Replayer(url, blobs, model="edif/demo") as client:
        for act in ("models/edif/demo/evict", "drain"):
            (await client._http.post(f"{url}/edif/v1/{act}")).raise_for_status()
        while (await client.get("/edif/v1/models")).json()["models"][0]["replicas"]:
            await asyncio.sleep(0.1)
        left = iter(subscribers)

        async def post() -> None:
            for subscriber in left:
                (await client.post("hidden", subscriber.session)).raise_for_status()

        began = time.perf_counter()
        await asyncio.gather(*(post() for _ in range(_AT_ONCE)))
        return time.perf_counter() - began


async def _tell_all(
    url: str, subscribers: list[_Subscriber], other: ProcessPoolExecutor
) -> tuple[float, list[float]]:
    """Have the model brought up: all who wait are told so, in the same words."""
    pinging = asyncio.get_running_loop().run_in_executor(other, pings, url, 8.0)
    await asyncio.sleep(1.0)
    async with Replayer(url, Path()) as client:
        (await client._http.post(f"{url}/edif/v1/resume")).raise_for_status()
    said = "The model is being brought up: "
    async with asyncio.timeout(_FAN_OUT_S):
        while not all(any(said in sentence for sentence in each.told) for each in subscribers):
            await asyncio.sleep(0.1)
    first = min(
        (moment, sentence) for sentence, moment in subscribers[0].told.items() if sentence.startswith(said)
    )[1]
    moments = [each.told[first] for each in subscribers]
    return max(moments) - min(moments), await pinging
