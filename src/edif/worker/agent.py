"""The node agent: one per machine, dials out to the gateway, starts replicas, carries jobs to them.

It is trusted: it alone holds the worker token. It survives the gateway: while the link is down its jobs run
on, and what it has to say about them is kept until the gateway has confirmed it.
"""

import asyncio
import os
import shutil
import socket
import ssl
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import msgspec
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from edif import faults
from edif.blobs.file_blobs import FileBlobs, sweep_half_written
from edif.core import errors
from edif.core.errors import BlobsUnavailable, SetupError
from edif.faults import Point
from edif.walls.host import survey_apart
from edif.wire import link
from edif.worker.attempt import cancelled, cannot_seal, run_attempt
from edif.worker.model_files import send_metadata, sources
from edif.worker.node import PYTHON_VERSION, installed_packages
from edif.worker.replica import Replica, ReplicaCallbacks
from edif.worker.transfer import BucketTransfer, FolderTransfer, HttpTransfer, ResultBucket, Transfer

log = structlog.get_logger()

LINK_PATH = "/edif/v1/worker/link"
_RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_MAX_MESSAGE = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class GatewayAddress:
    """
    Attributes:
        url: base URL.
        tls: whom to trust there; None for a URL without TLS.
    """

    url: str
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """What an agent is started with.

    Attributes:
        agent_id: the name of this agent's seat. It stays the same when the process is started again, so the
            gateway learns at once that what an earlier process had is gone.
        gateways: of which one leads and answers; they are tried in turn.
        token: the worker token.
        spool: a private folder for bytes on their way.
        shared_blobs: the gateway's blob folder, if this machine might see it.
        environment: what may be passed on to the model libraries.
        hold_results_s: how long a result is held, or a payload waited for, while the gateway or the bucket is away or its disk is full.
        bucket: where results go directly, if the gateway keeps them in the same one.
        bucket_tls: whom to trust there.
    """

    agent_id: str
    gateways: tuple[GatewayAddress, ...]
    token: str
    spool: Path
    shared_blobs: Path | None
    environment: dict[str, str]
    hold_results_s: float
    bucket: ResultBucket | None = None
    bucket_tls: ssl.SSLContext | None = None


AttemptId = tuple[str, int]


class Agent:
    """Run it with :meth:`run`, end it with :meth:`stop`."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self.id = config.agent_id
        self._packages = installed_packages()
        self._replicas: dict[str, Replica] = {}
        self._attempts: dict[AttemptId, asyncio.Task[None]] = {}
        self._unconfirmed: dict[AttemptId, link.AttemptEnded] = {}
        self._unwanted: dict[AttemptId, link.RunAttempt | None] = {}
        """What is being ended because no gateway knows of it, and under the same name what is to be begun after it."""
        self._outbox: asyncio.Queue[link.ToGateway] = asyncio.Queue()
        self._connected = False
        self._http = self._client({"authorization": f"Bearer {config.token}"})
        self._links = self._client(
            {}
        )  # who has a signed link needs no token, and a bucket must not be shown it
        self._transfer: Transfer = HttpTransfer(self._links, config.spool, config.hold_results_s)
        self._tasks: asyncio.TaskGroup | None = None
        self._main: asyncio.Task[None] | None = None
        self._stopping = False
        self._lacking: str | None = None

    def _client(self, headers: dict[str, str]) -> httpx.AsyncClient:
        config = self._config
        return httpx.AsyncClient(
            base_url=config.gateways[0].url,
            headers=headers,
            verify=config.bucket_tls or True,
            mounts={
                each.url: httpx.AsyncHTTPTransport(verify=each.tls)
                for each in config.gateways
                if each.tls is not None
            },
            timeout=httpx.Timeout(60.0, connect=10.0),
        )

    def stop(self) -> None:
        """End :meth:`run` and all replicas. What runs is not reported as ended: the gateway has it tried again."""
        self._stopping = True
        if self._main is not None:
            self._main.cancel()

    async def run(self) -> None:
        """Serve until stopped.

        Raises:
            SetupError: the gateway does not accept this agent.
        """
        self._main = asyncio.current_task()
        self._sweep()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self._stay_connected())
        except* SetupError as group:
            raise group.exceptions[0] from None
        finally:
            await asyncio.gather(*(replica.stop() for replica in self._replicas.values()))
            await self._http.aclose()
            await self._links.aclose()

    def _sweep(self) -> None:
        """Delete what an agent that was killed left: half-moved results, scratch folders of jobs that died with it."""
        if self._config.shared_blobs is not None:
            sweep_half_written(self._config.shared_blobs, self.id)
        for path in self._config.spool.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    # -- the link --------------------------------------------------------------------------------------
    async def _stay_connected(self) -> None:
        failures = 0
        while True:
            for gateway in self._config.gateways:
                if await self._visit(gateway, first=failures == 0):
                    failures = 0
                    break  # it may come back, or another may lead now: all are tried, from the first one on
            await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
            failures += 1

    async def _visit(self, gateway: GatewayAddress, *, first: bool) -> bool:
        """Be this gateway's agent for as long as the link holds; False if it did not come about."""
        joined = False
        try:
            async with connect(
                gateway.url.replace("http", "ws", 1) + LINK_PATH,
                ssl=gateway.tls,
                additional_headers={"authorization": f"Bearer {self._config.token}"},
                max_size=_MAX_MESSAGE,
                ping_interval=5,
                ping_timeout=15,
                compression=None,
                proxy=None,
            ) as connection:
                joined = True
                self._http.base_url = self._links.base_url = httpx.URL(gateway.url)
                await self._converse(connection)
        except InvalidStatus as error:
            if error.response.status_code in (401, 403):
                raise SetupError(
                    errors.CONFIG_INVALID,
                    f"The gateway at {gateway.url} does not accept this agent's worker token.",
                    "Give it the content of worker.token in the gateway's data folder.",
                ) from error
            log.warning("agent.link_refused", gateway=gateway.url, status=error.response.status_code)
        except (OSError, WebSocketException) as error:
            if first or joined:
                log.warning("agent.link_down", gateway=gateway.url, reason=str(error) or type(error).__name__)
        finally:
            self._connected = False
        return joined

    async def _converse(self, connection: ClientConnection) -> None:
        # From here on what happens is queued behind the hello, which tells all that happened before.
        self._outbox = asyncio.Queue()
        hello = self._hello()
        self._connected = True
        await connection.send(link.encode(hello))
        welcome = link.decode_to_agent(await self._next(connection))
        if not isinstance(welcome, link.Welcome):
            raise ConnectionError("the gateway did not say welcome")
        await self._welcome(welcome)
        sender = asyncio.create_task(self._send_all(connection))
        try:
            while True:
                data = await self._next(connection)
                try:
                    message = link.decode_to_agent(data)
                except msgspec.DecodeError as error:
                    log.warning("agent.message_refused", reason=str(error))
                    continue
                self._hear(message)
        except ConnectionClosed:
            log.warning("agent.link_closed")
        finally:
            sender.cancel()

    @staticmethod
    async def _next(connection: ClientConnection) -> bytes:
        data = await connection.recv(decode=False)
        return bytes(data)

    async def _send_all(self, connection: ClientConnection) -> None:
        while True:
            message = await self._outbox.get()
            await connection.send(link.encode(message))
            if isinstance(message, link.AttemptEnded):
                faults.point(Point.END_SAID)

    def _hello(self) -> link.Hello:
        running = {*self._attempts, *self._unconfirmed}
        return link.Hello(
            version=link.LINK_VERSION,
            agent=self.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            python_version=PYTHON_VERSION,
            packages=self._packages,
            replicas=[
                link.ReplicaReport(replica.id, replica.spec.id, replica.is_ready)
                for replica in self._replicas.values()
            ],
            running=[link.AttemptRef(*attempt) for attempt in running],
        )

    async def _welcome(self, welcome: link.Welcome) -> None:
        self._transfer = await self._choose_transfer(welcome.store)
        for unwanted in welcome.unwanted:
            self._give_up((unwanted.job, unwanted.attempt))
        for message in self._unconfirmed.values():
            self._outbox.put_nowait(message)
        log.info("agent.connected", gateway=str(self._http.base_url), transfer=type(self._transfer).__name__)

    async def _choose_transfer(self, store: str) -> Transfer:
        """Use the bucket or the folder if it is provably the gateway's own."""
        folder, bucket = self._config.shared_blobs, self._config.bucket
        spool, hold_s = self._config.spool, self._config.hold_results_s
        try:
            if bucket is not None and await bucket.id() == store:
                return BucketTransfer(self._links, spool, hold_s, bucket)
        except BlobsUnavailable as error:
            log.warning("agent.bucket_away", reason=error.sentence)
        try:
            if folder is not None and (folder / "store.id").read_text() == store:
                return FolderTransfer(FileBlobs(folder, self.id))
        except OSError:
            pass
        return HttpTransfer(self._links, spool, hold_s)

    def _say(self, message: link.ToGateway) -> None:
        if self._connected:
            self._outbox.put_nowait(message)

    def _hear(self, message: link.ToAgent) -> None:
        match message:
            case link.StartReplica():
                self._spawn(self._start_replica(message))
            case link.StopReplica(replica=replica_id):
                self._spawn(self._stop_replica(replica_id))
            case link.SendMetadata(model=spec):
                self._spawn(self._send_metadata(spec))
            case link.RunAttempt():
                self._begin(message)
            case link.CancelAttempt(job=job, attempt=number):
                self._cancel((job, number))
            case link.OutcomeRecorded(job=job, attempt=number):
                self._unconfirmed.pop((job, number), None)
            case link.Welcome():
                log.warning("agent.second_welcome")

    def _spawn(self, coroutine: "asyncio._CoroutineLike[None]") -> asyncio.Task[None]:
        assert self._tasks is not None
        return self._tasks.create_task(coroutine)

    # -- replicas --------------------------------------------------------------------------------------
    async def _start_replica(self, message: link.StartReplica) -> None:
        replica_id, spec, cell = message.replica, message.model, message.cell
        if replica_id in self._replicas:
            return
        if cell is not None and (lacking := await self._lacking_walls()):
            self._say(link.ReplicaFailed(replica_id, lacking))
            return
        replica = Replica(
            replica_id,
            spec,
            ReplicaCallbacks(
                loading=lambda stage: self._say(link.ReplicaLoading(replica_id, stage)),
                ready=lambda load_s, size: self._say(link.ReplicaReady(replica_id, load_s, size)),
                failed=partial(self._replica_failed, replica_id),
            ),
            self._config.environment,
            cell,
            self._config.spool / "scratch",
            message.merging,
        )
        self._replicas[replica_id] = replica
        try:
            await replica.start()
        except OSError as error:
            sentence = f"The process for model {spec.id!r} cannot be started: {error}."
            self._replica_failed(replica_id, sentence, died=False)

    async def _lacking_walls(self) -> str:
        """Why this node cannot seal jobs in; empty if it can."""
        if self._lacking is None:
            walls = [
                wall for wall in await asyncio.to_thread(survey_apart) if wall.required and not wall.stands
            ]
            found = "; ".join(f"{wall.name}: {wall.found}" for wall in walls)
            self._lacking = f"This node cannot seal jobs in ({found})." if walls else ""
        return self._lacking

    def _replica_failed(self, replica_id: str, sentence: str, died: bool) -> None:
        replica = self._replicas.pop(replica_id, None)
        if replica is not None:
            log.error("agent.replica_failed", replica=replica_id, model=replica.spec.id, reason=sentence)
            self._spawn(replica.stop())
        self._say(link.ReplicaFailed(replica_id, sentence, died))

    async def _stop_replica(self, replica_id: str) -> None:
        replica = self._replicas.pop(replica_id, None)
        if replica is not None:
            await replica.stop()
        self._say(link.ReplicaStopped(replica_id))

    async def _send_metadata(self, spec: link.ModelSpec) -> None:
        for pause in (*_RETRY_S, None):
            try:
                for repo_id, folder in await asyncio.to_thread(sources, spec):
                    await send_metadata(self._http, repo_id, folder)
            except Exception as error:  # noqa: BLE001 - what the Hub's library raises is not only its own
                log.warning("agent.metadata_failed", model=spec.id, reason=repr(error), again_in_s=pause)
            else:
                return
            if pause is not None:
                await asyncio.sleep(pause)

    # -- attempts --------------------------------------------------------------------------------------
    def _begin(self, message: link.RunAttempt) -> None:
        attempt = (message.job, message.attempt)
        if attempt in self._unwanted:
            self._unwanted[attempt] = message
        elif attempt not in self._attempts and attempt not in self._unconfirmed:
            task = self._attempts[attempt] = self._spawn(self._attempt(message))
            task.add_done_callback(partial(self._done, message))

    def _give_up(self, attempt: AttemptId) -> None:
        """End it without a word: a gateway that died before it had recorded this attempt is followed by one that begins the job's
        next try under the same number, and how this one ended is not how that one does.
        """
        self._unconfirmed.pop(attempt, None)
        if attempt in self._attempts:
            self._unwanted.setdefault(attempt, None)
            self._attempts[attempt].cancel()

    def _cancel(self, attempt: AttemptId) -> None:
        awaited = self._unwanted.get(attempt)
        if awaited is not None:
            self._unwanted[attempt] = None
            self._tell_end(cancelled(awaited))
        elif attempt in self._attempts:
            self._attempts[attempt].cancel()

    async def _attempt(self, message: link.RunAttempt) -> None:
        if message.cell is not None and (lacking := await self._lacking_walls()):
            ended = cannot_seal(message, lacking)
        else:
            replica = self._replicas.get(message.replica)
            ended = await run_attempt(message, replica, self._transfer, self._say)
        self._over(message, ended)

    def _done(self, message: link.RunAttempt, task: asyncio.Task[None]) -> None:
        """Of a task that was cancelled before its first step nobody has heard."""
        if self._attempts.get((message.job, message.attempt)) is task:
            self._over(message, cancelled(message))

    def _over(self, message: link.RunAttempt, ended: link.AttemptEnded) -> None:
        key = (message.job, message.attempt)
        del self._attempts[key]
        if self._stopping:
            return
        if key not in self._unwanted:
            self._tell_end(ended)
        elif (awaited := self._unwanted.pop(key)) is not None:
            self._begin(awaited)

    def _tell_end(self, ended: link.AttemptEnded) -> None:
        self._unconfirmed[ended.job, ended.attempt] = ended
        self._say(ended)
