"""A client without torch: speaks the exact protocol with recorded requests, many at a time."""

import asyncio
import io
import json
import ssl
import time
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from edif.models.model_key import format_model_key
from tests.support.fabric import PATIENCE_S

FINAL = ("COMPLETED", "ERROR")
HEADERS = {"nnsight-version": "0.8.1", "python-version": "3.11.7"}


@dataclass
class Outcome:
    """What one client saw: the frames in order, and the result's bytes if they came."""

    id: str
    frames: list[dict[str, Any]] = field(default_factory=list)
    result: bytes | None = None
    seconds: float = 0.0

    @property
    def final(self) -> dict[str, Any]:
        return self.frames[-1]

    @property
    def status(self) -> str:
        return str(self.final["status"])

    @property
    def statuses(self) -> list[str]:
        return [str(frame["status"]) for frame in self.frames]

    @property
    def description(self) -> str:
        return str(self.final["description"])


class Replayer:
    """Sends minted blobs to one fabric as one user; ``authorities`` is the file of those it trusts over TLS."""

    def __init__(
        self,
        url: str,
        blobs: Path,
        model: str = "tiny/gpt2",
        key: str | None = None,
        authorities: Path | None = None,
    ) -> None:
        self.url = url
        self.blobs = blobs
        self.model_key = format_model_key(model, None, "text-generation", False)
        self.headers = {**HEADERS, **({"ndif-api-key": key} if key else {})}
        self._tls = None if authorities is None else ssl.create_default_context(cafile=str(authorities))
        self._http = httpx.AsyncClient(timeout=PATIENCE_S, verify=self._tls or True)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> "Replayer":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def post(self, name: str, session_id: str = "", **changes: Any) -> httpx.Response:
        """Post one minted request; ``changes`` replace parts of the envelope, ``headers`` or the ``blob``."""
        return await self._http.send(self.request(name, session_id, **changes))

    async def send(self, body: AsyncIterator[bytes], headers: httpx.Headers) -> httpx.Response:
        """Post what a :meth:`request` holds, in parts as they come."""
        return await self._http.post(f"{self.url}/request", content=body, headers=headers)

    def request(self, name: str, session_id: str = "", **changes: Any) -> httpx.Request:
        """What :meth:`post` sends."""
        headers = {**self.headers, **changes.pop("headers", {})}
        path = self.blobs / (name if "." in name else f"{name}.zst")
        blob = changes.pop("blob", None)
        envelope = {
            "model_key": self.model_key,
            "session_id": session_id,
            "compress": path.suffix == ".zst",
            "env": {"attn_implementation": "sdpa"},
            **changes,
        }
        return self._http.build_request(
            "POST",
            f"{self.url}/request",
            data={"data": json.dumps(envelope)},
            files={
                "blob": ("request", path.read_bytes() if blob is None else blob, "application/octet-stream")
            },
            headers=headers,
        )

    async def submit(self, name: str, **changes: Any) -> str:
        """Submit without waiting and return the job's id."""
        answer = await self.post(name, **changes)
        answer.raise_for_status()
        return str(answer.json()["id"])

    async def until_running(self, job: str, timeout_s: float = PATIENCE_S) -> None:
        """Poll until the job runs."""
        deadline = time.monotonic() + timeout_s
        while (status := (await self.get(f"/response/{job}")).json()["status"]) != "RUNNING":
            if status in FINAL or time.monotonic() > deadline:
                raise AssertionError(f"job {job} was not seen running, but {status}")
            await asyncio.sleep(0.02)

    async def poll(self, job: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """Poll until the job has ended; a gateway that is away is asked again."""
        deadline = time.monotonic() + timeout_s
        last: dict[str, Any] = {}
        while time.monotonic() < deadline:
            try:
                answer = await self._http.get(f"{self.url}/response/{job}", headers=self.headers)
                if answer.status_code == 200:
                    last = answer.json()
                    if last["status"] in FINAL:
                        return last
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.05)
        raise AssertionError(f"job {job} did not end in {timeout_s} s: {last}")

    async def ended_once(self, job: str) -> bool:
        """Whether one try of the job was completed, and no other."""
        tries = (await self.get(f"/edif/v1/jobs/{job}")).json()["tries"]
        return [each["outcome"] for each in tries].count("completed") == 1

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self._http.get(f"{self.url}{path}", headers={**self.headers, **headers})

    async def own(self, method: str, path: str) -> httpx.Response:
        """Ask one of eDIF's own routes."""
        return await self._http.request(method, f"{self.url}/edif/v1/{path}", headers=self.headers)

    async def cancel(self, job: str) -> httpx.Response:
        return await self.own("POST", f"jobs/{job}/cancel")

    async def fetch(self, frame: dict[str, Any]) -> bytes:
        answer = await self._http.get(frame["data"])
        answer.raise_for_status()
        return answer.content

    async def run(
        self, name: str, on_frame: Callable[[dict[str, Any]], None] | None = None, **changes: Any
    ) -> Outcome:
        """What a blocking client does: subscribe, post, wait for the last frame, take the result."""
        began = time.monotonic()
        address = self.url.replace("http", "ws", 1) + "/subscribe"
        key = {name: value for name, value in self.headers.items() if name == "ndif-api-key"}
        async with connect(
            address, ssl=self._tls, additional_headers=key, proxy=None, max_size=None, compression=None
        ) as socket:
            session = json.loads(await socket.recv())["session_id"]
            answer = await self.post(name, session, **changes)
            answer.raise_for_status()
            outcome = Outcome(answer.json()["id"], [answer.json()])
            while outcome.status not in FINAL:
                try:
                    message = await socket.recv()
                except ConnectionClosed:
                    raise AssertionError(f"the socket closed after {outcome.statuses}") from None
                frame, result = read_frame(message)
                outcome.frames.append(frame)
                outcome.result = result
                if on_frame is not None:
                    on_frame(frame)
        if outcome.status == "COMPLETED" and outcome.result is None:
            outcome.result = await self.fetch(outcome.final)
        outcome.seconds = time.monotonic() - began
        return outcome


def read_frame(message: str | bytes) -> tuple[dict[str, Any], bytes | None]:
    """A frame as a dict, and the result's bytes if it is the binary one."""
    if isinstance(message, str):
        return json.loads(message), None
    import pickle

    with zipfile.ZipFile(io.BytesIO(message)) as archive:
        body = pickle.loads(archive.read("archive/data.pkl"))
    result = body.pop("data")
    return body, result
