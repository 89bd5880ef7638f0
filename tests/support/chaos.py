"""Chaos for a running fabric: clients that do not give up, and a killer that does not tire."""

import asyncio
import contextlib
import hashlib
import json
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from edif.faults import Point
from tests.sizes import SIZES
from tests.support.fabric import Fabric
from tests.support.models import GPT2_ID
from tests.support.replay import FINAL, Replayer, read_frame

# The same weights under two more names: recorded requests know the modules of the model that they are for.
SECOND_ID = "tiny/second"
SEALED_ID = "tiny/sealed"
SHARED_IDS = (GPT2_ID, SECOND_ID)[: SIZES.chaos_models]
WAIT_S = 300.0
PATIENT_REFUSALS = frozenset({"store_unreachable", "lead_lost", "session_unknown"})
"""A post that was answered so may be repeated: the refusal passes."""
REVOKED = 0.3
"""Of so many jobs with a result the links are revoked."""

# How often each kind of request is sent, by model. The killer's pause is longer than the longest of them.
_WHOLE_MIX: dict[tuple[str, str], int] = {
    (GPT2_ID, "hello"): 10,
    (GPT2_ID, "hidden"): 6,
    (GPT2_ID, "wave"): 4,
    (GPT2_ID, "slow"): 1,
    (GPT2_ID, "keeps"): 3,
    (GPT2_ID, "raises"): 3,
    (GPT2_ID, "wrong_order"): 2,
    (SECOND_ID, "hello"): 6,
    (SECOND_ID, "wave"): 2,
    (SECOND_ID, "slow"): 1,
    (SECOND_ID, "unpicklable"): 2,
    (SEALED_ID, "hello"): 6,
    (SEALED_ID, "wave"): 2,
    (SEALED_ID, "slow"): 1,
    (SEALED_ID, "keeps"): 2,
    (SEALED_ID, "raises"): 2,
}
MIX = {what: often for what, often in _WHOLE_MIX.items() if what[0] in (*SHARED_IDS, SEALED_ID)}


@dataclass(frozen=True, slots=True)
class End:
    """How a job ended, as its client sees it; the result as a digest."""

    status: str
    description: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """One job: what was asked, what it was called, how it ended."""

    what: tuple[str, str]
    id: str
    end: End


async def calm_ends(fabric: Fabric, blobs: Path) -> dict[tuple[str, str], End]:
    """How every kind of request ends where nothing is killed."""
    ends = {}
    for model, kind in MIX:
        async with Replayer(fabric.url, blobs, model) as client:
            outcome = await client.run(kind)
            digest = None if outcome.result is None else hashlib.sha256(outcome.result).hexdigest()
            ends[model, kind] = End(outcome.status, outcome.description, digest)
    return ends


class Clients:
    """Many clients that send jobs and learn how each one ended, whatever happens to the fabric.

    A post is repeated, with the same ``idempotency-key``, only where no answer came or a passing refusal did. Half of the
    jobs listen on a status socket; when that breaks they are polled for. Of some, links to the result are revoked.
    """

    def __init__(self, url: str, blobs: Path, dice: random.Random) -> None:
        self._clients = {model: Replayer(url, blobs, model) for model, _ in MIX}
        self._socket_url = url.replace("http", "ws", 1) + "/subscribe"
        self._dice = dice
        self._next = 0
        self.sent: list[Sent] = []
        self.met: Counter[str] = Counter()

    async def run(self, clients: int, more: Callable[[int], bool]) -> None:
        """Send jobs, so many at a time, while ``more`` says so of their number."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(clients):
                    tasks.create_task(self._work(more))
        finally:
            for client in self._clients.values():
                await client.close()

    async def _work(self, more: Callable[[int], bool]) -> None:
        while more(self._next):
            self._next += 1
            what = self._dice.choices(list(MIX), list(MIX.values()))[0]
            async with asyncio.timeout(WAIT_S):
                job, end = await self._send(f"chaos-{self._next}", what, listen=self._dice.random() < 0.5)
                if end.status == "COMPLETED" and self._dice.random() < REVOKED:
                    end = await self._revoke_links(self._clients[what[0]], job)
            self.sent.append(Sent(what, job, end))

    async def _send(self, key: str, what: tuple[str, str], *, listen: bool) -> tuple[str, End]:
        client = self._clients[what[0]]
        async with contextlib.AsyncExitStack() as stack:
            socket, session = None, ""
            if listen:
                with contextlib.suppress(OSError, WebSocketException):
                    socket = await stack.enter_async_context(
                        connect(self._socket_url, proxy=None, max_size=None, compression=None)
                    )
                    session = json.loads(await socket.recv())["session_id"]
            job, repeated = await self._post(client, what[1], key, session)
            told = await self._listen(socket) if socket is not None and not repeated else None
            if told is None:
                told = await self._poll(client, job), None
            return job, await self._end(client, *told)

    async def _post(self, client: Replayer, kind: str, key: str, session: str) -> tuple[str, bool]:
        """The job's id, and whether it was asked for more than once."""
        repeated = False
        while True:
            try:
                answer = await client.post(kind, session, headers={"idempotency-key": key})
            except httpx.TransportError:
                self.met["posts without an answer"] += 1
            else:
                if answer.status_code == 200:
                    return str(answer.json()["id"]), repeated
                code = answer.json()["code"]
                assert code in PATIENT_REFUSALS, answer.text
                self.met[f"posts refused with {code}"] += 1
            repeated, session = True, ""
            await asyncio.sleep(0.3)

    async def _listen(self, socket: ClientConnection) -> tuple[dict[str, Any], bytes | None] | None:
        """The last frame, and the result if it came with it; None if the socket broke before."""
        try:
            while True:
                frame, result = read_frame(await socket.recv())
                if frame["status"] in FINAL:
                    self.met["ends heard on a socket"] += 1
                    return frame, result
        except WebSocketException:
            self.met["sockets that broke"] += 1
            return None

    async def _poll(self, client: Replayer, job: str) -> dict[str, Any]:
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = await client.get(f"/response/{job}")
                assert answer.status_code in (200, 503), f"an accepted job is gone: {answer.text}"
                if answer.status_code == 200 and answer.json()["status"] in FINAL:
                    return dict(answer.json())
            await asyncio.sleep(0.3)

    async def _end(self, client: Replayer, frame: dict[str, Any], result: bytes | None) -> End:
        while frame["status"] == "COMPLETED" and result is None:
            try:
                result = await client.fetch(frame)
            except httpx.TransportError:
                self.met["downloads that broke"] += 1
                await asyncio.sleep(0.3)
        digest = None if result is None else hashlib.sha256(result).hexdigest()
        return End(frame["status"], frame["description"], digest)

    async def _revoke_links(self, client: Replayer, job: str) -> End:
        """Ask for it until it is done; then the end as it is seen by a link that is made afterwards."""
        while True:
            try:
                answer = await client.own("POST", f"jobs/{job}/revoke-links")
                if answer.status_code == 200:
                    break
                assert answer.json()["code"] in PATIENT_REFUSALS, answer.text
            except httpx.TransportError:
                self.met["revocations without an answer"] += 1
            await asyncio.sleep(0.3)
        self.met["revocations"] += 1
        return await self._end(client, await self._poll(client, job), None)


@dataclass
class Killer:
    """Kills a process of the fabric with SIGKILL, waits until it is whole again, and a while longer.

    That while is longer than any job runs, and a job that is tried again goes first: so this killer alone never meets a job
    three times. It spares sealed jobs' own processes: their death counts as the job's doing.
    """

    fabric: Fabric
    dice: random.Random
    pause_s: tuple[float, float] = (2.5, 5.0)
    killed: Counter[str] = field(default_factory=Counter)
    seen: set[psutil.Process] = field(default_factory=set)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._until_whole()
            await asyncio.sleep(self.dice.uniform(*self.pause_s))
            self.look()
            name = self.dice.choice(("gateway", "agent", "zygote", "runner"))
            with contextlib.suppress(psutil.NoSuchProcess, IndexError, FileNotFoundError):
                victim = self._victim(name)
                victim.send_signal(signal.SIGKILL)
                self.killed[name] += 1

    def look(self) -> None:
        """Remember every process of the fabric that there is now."""
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            gateway, agent = (psutil.Process(self.fabric.pid(name)) for name in ("gateway", "agent"))
            self.seen |= {gateway, agent, *agent.children(recursive=True)}

    def left(self) -> list[psutil.Process]:
        """Which of them are still there."""
        return [each for each in self.seen if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]

    def _victim(self, name: str) -> psutil.Process:
        if name in ("gateway", "agent"):
            return psutil.Process(self.fabric.pid(name))
        zygotes = psutil.Process(self.fabric.pid("agent")).children()
        if name == "zygote":
            return self.dice.choice(zygotes)
        return self.dice.choice(
            [runner for zygote in zygotes for runner in zygote.children() if not _sealed(runner)]
        )

    async def _until_whole(self) -> None:
        async with httpx.AsyncClient() as client, asyncio.timeout(WAIT_S):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    states = (await client.get(f"{self.fabric.url}/status")).json().get("deployments", {})
                    if states and all(
                        each["application_state"] == "RUNNING" and each["deployment_level"] == "HOT"
                        for each in states.values()
                    ):
                        return
                await asyncio.sleep(0.3)


def _sealed(process: psutil.Process) -> bool:
    """Whether the kernel closes it in: it has a filter of system calls."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return any(line.split() == ["Seccomp:", "2"] for line in lines)


def fault_settings(dice: random.Random) -> str:
    """Every fault point, each with a count of its own, as ``EDIF_FAULTS``.

    Of what does not happen to every job, the first time is waited for.
    """
    rare = (Point.REQUEUE_RECORDED, Point.KEPT_COMMITTED)
    counts = {point: 1 if point in rare else dice.randint(3, 9) for point in Point}
    return json.dumps([f"{point}:{count}" for point, count in counts.items()])


def fired(fabric: Fabric) -> set[str]:
    """The fault points that have fired."""
    marks = fabric.data / "run" / "faults"
    return {mark.name for mark in marks.iterdir()} if marks.exists() else set()


def table(title: str, figures: Mapping[str, object]) -> Iterator[str]:
    yield title
    for name, value in figures.items():
        yield f"  {name:<34} {value}"
