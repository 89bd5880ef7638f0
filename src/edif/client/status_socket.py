"""One status socket for all jobs of a connection: opened again when it breaks, and nothing missed."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ssl import SSLContext
from typing import Protocol

from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.schema.response import ResponseModel
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from edif.client.retrying import Patience, Say, told

_FOLLOWED_AT_ONCE = 100  # as many as one message may name (docs/protocol.md)
_PING_S = 15.0  # after a sleep or a change of network, silence is noticed within two of these
_HANDSHAKE_S = 10.0
_GOODBYE_S = 1.0


class Follower(Protocol):
    """A job that wants to hear of itself."""

    id: str

    def tell(self, frame: ResponseModel) -> None: ...


class StatusSocket:
    """Routes status frames to jobs, from a thread of its own.

    A job whose frames may have been missed (it was sent with an earlier session, or sent twice) is followed anew: the
    gateway is told its id and answers with its last status. Where no socket can be had at all, jobs are polled.

    Args:
        url: of the gateway.
        poll: a job's last status; None if it cannot be asked now.
        say: is told what is waited for.
    """

    def __init__(
        self,
        url: str,
        key: str | None,
        tls: SSLContext,
        poll: Callable[[str], ResponseModel | None],
        say: Say,
    ) -> None:
        self._address = url.replace("http", "ws", 1) + "/subscribe"
        self._headers = {"ndif-api-key": key} if key else {}
        self._tls = tls if url.startswith("https") else None
        self._poll = poll
        self._patience = Patience("Hearing from the fabric", say)
        self._lock = threading.Lock()
        self._jobs: dict[str, Follower] = {}
        self._posting = 0
        self._unclaimed: list[ResponseModel] = []  # what was heard of jobs whose ids are not known here yet
        self._socket: ClientConnection | None = None
        self._session = ""
        self._opened = threading.Event()
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="edif status socket", daemon=True).start()

    def wait_open(self, timeout_s: float) -> bool:
        return self._opened.wait(timeout_s)

    def close(self) -> None:
        self._closed.set()
        if (socket := self._socket) is not None:
            socket.close()

    @contextmanager
    def posting(self) -> Iterator[str]:
        """A job is being sent with this session; what is told of it before its id is known is kept. Empty: no socket is open."""
        with self._lock:
            self._posting += 1
            session = self._session
        try:
            yield session
        finally:
            with self._lock:
                self._posting -= 1
                if not self._posting:
                    self._unclaimed.clear()

    def watch(self, job: Follower, session: str) -> None:
        """Tell the job what is heard of it until its end.

        Args:
            session: with which it was sent; empty if that is not certain.
        """
        with self._lock:
            self._jobs[job.id] = job
            missed = [frame for frame in self._unclaimed if frame.id == job.id]
            current = session != "" and session == self._session
        for frame in missed:
            self._give(frame)
        if not current:
            self._follow([job.id])

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._listen()
                reason = "the connection was closed"
            except Exception as error:  # noqa: BLE001 - whatever went wrong or was said here: the next socket begins afresh
                reason = told(error)
            finally:
                with self._lock:
                    self._socket, self._session = None, ""
                self._opened.clear()
            if not self._closed.wait(self._patience.next_wait_s(reason)):
                self._poll_all()

    def _listen(self) -> None:
        with connect(
            self._address,
            ssl=self._tls,
            additional_headers=self._headers,
            compression=None,
            max_size=None,
            open_timeout=_HANDSHAKE_S,
            ping_interval=_PING_S,
            ping_timeout=_PING_S,
            close_timeout=_GOODBYE_S,
        ) as socket:
            session = json.loads(socket.recv(_HANDSHAKE_S))["session_id"]
            with self._lock:
                self._socket, self._session = socket, session
                waiting = list(self._jobs)
            if self._closed.is_set():
                return
            self._opened.set()
            self._patience.progress()
            self._follow(waiting)
            for message in socket:
                self._hear(RemoteBackend.parse(message))

    def _follow(self, jobs: list[str]) -> None:
        socket = self._socket
        if socket is None:
            return  # the next one follows whatever waits
        for start in range(0, len(jobs), _FOLLOWED_AT_ONCE):
            try:
                socket.send(json.dumps({"follow": jobs[start : start + _FOLLOWED_AT_ONCE]}))
            except (ConnectionClosed, OSError):
                return

    def _poll_all(self) -> None:
        """For networks in which no socket can be had: what is missed on it is asked for."""
        for job in list(self._jobs):
            frame = None if self._opened.is_set() else self._poll(job)
            if frame is None:
                return
            self._give(frame)

    def _hear(self, frame: ResponseModel) -> None:
        with self._lock:
            if frame.id not in self._jobs and self._posting:
                self._unclaimed.append(frame)
                return
        self._give(frame)

    def _give(self, frame: ResponseModel) -> None:
        job = self._jobs.get(frame.id)
        if job is None:
            return
        if frame.status.value in ("COMPLETED", "ERROR"):
            with self._lock:
                self._jobs.pop(frame.id, None)
        job.tell(frame)
