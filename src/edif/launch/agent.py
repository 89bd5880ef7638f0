"""``edif agent``: puts a node agent together and runs it until a signal stops it."""

import asyncio
import contextlib
import os
import signal
import ssl
import time

import structlog
import uvloop

from edif import faults
from edif.core import errors
from edif.core.errors import SetupError
from edif.launch.blobs import open_bucket, until_reached
from edif.launch.data_folder import DataFolder
from edif.launch.renewal import FollowingContext
from edif.launch.tls import client_context, client_files
from edif.launch.watchdog import loop_watched
from edif.settings import Settings, environment
from edif.telemetry import logs
from edif.telemetry.log_files import LogFile
from edif.worker.agent import Agent, AgentConfig, GatewayAddress

log = structlog.get_logger()


def run(settings: Settings) -> None:
    """Run an agent until a signal stops it.

    Raises:
        SetupError: no gateway is named, or it does not accept the agent.
    """
    logs.set_up(json_lines=settings.log_json)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(settings))


async def _main(settings: Settings) -> None:
    async with loop_watched():
        await _run(settings)


async def _run(settings: Settings) -> None:
    folder = DataFolder(settings.data.resolve())
    folder.prepare()
    faults.arm(settings.faults, folder.fault_marks)
    token = settings.worker_token or (
        (folder.root / "worker.token").is_file() and folder.secret("worker.token")
    )
    urls = settings.gateway_url or tuple(filter(None, [(folder.facts("gateway") or {}).get("url")]))
    if not urls:
        raise SetupError(
            errors.CONFIG_INVALID,
            "The agent does not know its gateway.",
            "Name it: edif agent --gateway URL, with EDIF_WORKER_TOKEN set to the content of worker.token.",
        )
    if not token:
        raise SetupError(
            errors.CONFIG_INVALID,
            "The agent has no worker token.",
            "Set EDIF_WORKER_TOKEN to the content of worker.token in the gateway's data folder.",
        )
    with folder.while_there_is_room(), folder.hold("agent"):
        certificate = None if settings.tls_cert is None else str(settings.tls_cert)
        folder.note(
            "agent",
            {"pid": os.getpid(), "gateway": urls[0], "certificate": certificate, "started_at": time.time()},
        )
        bucket = open_bucket(settings, folder)
        if bucket is not None:
            await until_reached(bucket)
        agent = Agent(
            AgentConfig(
                agent_id=folder.seat(),
                gateways=tuple(GatewayAddress(url, _tls(settings, folder, url)) for url in urls),
                token=token,
                spool=folder.spool,
                shared_blobs=folder.blobs,
                environment=environment(),
                hold_results_s=settings.hold_results_s,
                bucket=bucket,
                bucket_tls=None if bucket is None else bucket.bucket.tls(),
            )
        )
        task = asyncio.create_task(agent.run())
        tending = asyncio.create_task(LogFile(folder.log("agent"), settings.log_retention_s).tend())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, agent.stop)
        with contextlib.suppress(asyncio.CancelledError):
            await task
        tending.cancel()
        log.info("agent.stopped")


def _tls(settings: Settings, folder: DataFolder, url: str) -> ssl.SSLContext | None:
    if not url.startswith("https:"):
        return None

    def make() -> ssl.SSLContext:
        context = client_context(settings, folder, url)
        assert context is not None
        return context

    return FollowingContext.of(client_files(settings, folder, url), make)
