"""``edif gateway``: puts the gateway together, runs it, and takes it apart."""

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import time

import structlog
import uvloop

from edif import faults
from edif.blobs.file_blobs import FileBlobs, sweep_half_written
from edif.blobs.links import LinkSigner
from edif.core import errors
from edif.core.addresses import is_loopback, parse_networks
from edif.core.errors import SetupError
from edif.core.ids import ModelId
from edif.core.limits import Limits
from edif.gateway.app import create_app
from edif.gateway.auth import Authenticator, AuthRates, Tokens
from edif.gateway.decisions import DecisionLog
from edif.gateway.edge import Edge, EdgeConfig
from edif.gateway.fabric import Fabric, FabricConfig
from edif.gateway.hub import HubMirror
from edif.gateway.rates import Pace, RateLimiter
from edif.gateway.retention import Retention, keep_tidy, sweep_strays
from edif.gateway.subscribers import Subscribers
from edif.launch.blobs import known_store, open_blobs
from edif.launch.data_folder import DataFolder
from edif.launch.leading import keep_leading, leading
from edif.launch.models import catalogue_of
from edif.launch.renewal import FollowingContext
from edif.launch.server import GatewayServer, listen, make_server, own_url
from edif.launch.tls import server_context, server_files
from edif.launch.watchdog import loop_watched
from edif.models.catalogue import Catalogue
from edif.records.store import RecordStore
from edif.settings import Settings
from edif.telemetry import logs
from edif.telemetry.log_files import LogFile

log = structlog.get_logger()


def run(settings: Settings) -> None:
    """Run a gateway until a signal stops it.

    Raises:
        SetupError: the port is taken, folder or database cannot be used, another gateway leads or has taken the lead, or
            a rule of safety stands against it.
    """
    logs.set_up(json_lines=settings.log_json)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(settings))


async def _main(settings: Settings) -> None:
    folder = DataFolder(settings.data.resolve())
    folder.prepare()
    faults.arm(settings.faults, folder.fault_marks)
    catalogue = catalogue_of(settings)
    tls = _tls(settings)
    with folder.while_there_is_room():
        async with loop_watched(), leading(settings, folder) as records:
            await _check_exposure(settings, records)
            with listen(settings) as sock:
                await _serve(settings, folder, catalogue, records, sock, tls)


async def _check_exposure(settings: Settings, records: RecordStore) -> None:
    if not is_loopback(settings.host) and not await records.any_user():
        raise SetupError(
            errors.OPEN_WITHOUT_KEYS,
            f"A fabric without users runs anybody's code, so it may not listen on {settings.host}.",
        )


def _tls(settings: Settings) -> ssl.SSLContext | None:
    files = server_files(settings)
    return FollowingContext.of(files, lambda: server_context(*files)) if files else None


def _decision_log(settings: Settings) -> DecisionLog | None:
    if settings.decision_log is None:
        return None
    try:
        return DecisionLog(settings.decision_log)
    except OSError as error:
        raise SetupError(
            errors.CONFIG_INVALID,
            f"The decision log {str(settings.decision_log)!r} cannot be written: {error.strerror}.",
        ) from error


async def _serve(
    settings: Settings,
    folder: DataFolder,
    catalogue: Catalogue,
    records: RecordStore,
    sock: socket.socket,
    tls: ssl.SSLContext | None,
) -> None:
    blobs = open_blobs(settings, folder, "gateway")
    store_id = await known_store(blobs, folder)
    sweep_half_written(folder.blobs, "gateway")  # nobody else leads
    fabric = Fabric(
        FabricConfig(
            limits=Limits(
                time_s=settings.time_limit_s,
                result_bytes=int(settings.result_limit_bytes),
                payload_bytes=int(settings.payload_limit_bytes),
                payload_expanded_bytes=int(settings.payload_expanded_limit_bytes),
                log_bytes=int(settings.log_limit_bytes),
                memory_bytes=int(settings.memory_limit_bytes),
                scratch_bytes=int(settings.scratch_limit_bytes),
                link_bytes_per_s=settings.link_mbit_s * 1e6 / 8,
            ),
            push_bytes=settings.push_bytes,
            lease_s=settings.lease_s,
            store_id=store_id,
            keep_deployed=tuple(ModelId(each.spec.id) for each in catalogue),
            patience_s=settings.patience_s,
            contact=settings.contact,
        ),
        records=records,
        blobs=blobs,
        catalogue=catalogue,
        signer=LinkSigner(folder.secret("link.key").encode()),
        links=None if isinstance(blobs, FileBlobs) else blobs,
        decision_log=_decision_log(settings),
    )
    proxies = parse_networks(settings.trusted_proxies)
    edge = Edge(
        EdgeConfig(
            public_url=settings.public_url,
            trusted_proxies=proxies,
            public_status=settings.public_status,
            min_free_bytes=settings.min_free_bytes,
        ),
        fabric,
        Authenticator(
            records,
            Tokens(operator=folder.secret("operator.token"), worker=folder.secret("worker.token")),
            AuthRates(settings.requests_per_s, settings.refusals_per_s, proxies),
            loopback_only=is_loopback(settings.host),
        ),
        RateLimiter("such requests", settings.status_per_s),
        Pace(settings.refusals_per_s),
        Subscribers(),
        blobs,
        HubMirror(folder.hub, settings.hub_upstream),
    )
    await sweep_strays(records, blobs)
    await fabric.recover()
    url = own_url(settings, sock)
    certificate = None if settings.tls_cert is None else str(settings.tls_cert)
    folder.note(
        "gateway", {"pid": os.getpid(), "url": url, "certificate": certificate, "started_at": time.time()}
    )
    log.info("gateway.listening", url=url)
    server = make_server(settings, create_app(edge, records), edge.refusals, tls)
    periods = Retention(settings.retention_s, settings.record_retention_s)
    try:
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(fabric.run()),
                tasks.create_task(keep_tidy(records, blobs, periods, fabric.result_retired)),
                tasks.create_task(keep_leading(records, standby=settings.standby)),
                tasks.create_task(LogFile(folder.log("gateway"), settings.log_retention_s).tend()),
            ]
            # A whole collection of what stands from here on until the end took 60 to 190 ms, in which nobody was answered.
            gc.collect()
            gc.freeze()
            server.on_terminate = lambda: background.append(
                tasks.create_task(_drain(fabric, server, settings.drain_s))
            )
            await server.serve(sockets=[sock])
            for task in background:
                task.cancel()
    except* SetupError as group:
        raise group.exceptions[0] from None
    await edge.hub.close()


async def _drain(fabric: Fabric, server: GatewayServer, drain_s: float) -> None:
    """Let the jobs that run end, for so long; then end the server. What runs on, runs on at its agent."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(drain_s):
            await fabric.steering.begin_drain()
            await fabric.steering.drained()
    log.info("gateway.drained", running=fabric.overview.running())
    server.should_exit = True
