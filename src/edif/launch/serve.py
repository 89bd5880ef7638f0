"""``edif serve``: keeps one gateway and one agent running on this machine.

They are separate processes in sessions of their own. If this supervisor is killed they go on; the next one
takes over the agent, with its replicas and running jobs, and replaces the gateway, which loses nothing.
"""

import itertools
import json
import math
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from edif.core import errors
from edif.core.errors import SetupError
from edif.launch.data_folder import DataFolder
from edif.launch.models import catalogue_of
from edif.settings import Settings, environment

_READY_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 15.0
_RESTART_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_TRIES = 5
_PASSING = (errors.STORE_UNREACHABLE, errors.BLOBS_UNREACHABLE, errors.STORAGE_FULL)
_CONFIGURATION = (
    errors.CONFIG_INVALID,
    errors.OPEN_WITHOUT_KEYS,
    errors.TLS_INVALID,
    errors.DATA_NEWER,
    errors.BLOBS_MISSING,
    errors.BLOBS_DENIED,
    errors.BLOBS_CLOCK,
)
_COULD_NOT_SPEAK = 120  # Python's status when standard error takes no more (sys.exit): its disk is full
_QUICK_DRAIN_S = 3.0
_QUICK_S = 5.0


@dataclass(slots=True)
class _Service:
    """One supervised process, started by us or found running."""

    name: str
    pidfd: int
    pid: int
    process: subprocess.Popen[bytes] | None
    started: float

    def reap(self) -> int | None:
        """Its exit status (minus a signal), if it is our child."""
        return None if self.process is None else self.process.wait()

    def stop(self) -> None:
        """End it, and at once: a gateway leaves its running jobs to the agent."""
        self.signal(signal.SIGINT if self.name == "gateway" else signal.SIGTERM)
        if not select.select([self.pidfd], [], [], _STOP_TIMEOUT_S)[0]:
            self.signal(signal.SIGKILL)
            select.select([self.pidfd], [], [], _STOP_TIMEOUT_S)
        self.reap()
        os.close(self.pidfd)

    def signal(self, number: int) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return


class _Stopped(Exception):
    """A signal asked this process to stop."""


class Supervisor:
    """Starts the services, restarts those that die, stops them on a signal."""

    def __init__(
        self, settings: Settings, on_ready: Callable[[str], None], on_wait: Callable[[str], None]
    ) -> None:
        """
        Args:
            on_ready: called with the gateway's URL once it answers.
            on_wait: called with a sentence when something is waited for: with ``standby`` the end of another fabric, a disk or
                a database without which nothing starts, at the end the jobs that still run.
        """
        self._folder = DataFolder(settings.data.resolve())
        self._on_ready = on_ready
        self._on_wait = on_wait
        self._settings = settings.model_copy(update={"data": self._folder.root})
        self._services: dict[str, _Service] = {}
        self._quick_leaves = 0
        self._url = ""
        self._told = ""
        self._wake = -1

    def run(self) -> None:
        """Supervise until SIGINT, SIGTERM, or SIGHUP unless that is ignored: then nobody minds that the terminal closes.

        Raises:
            SetupError: a service cannot be started, and there is no hope that it passes.
        """
        self._folder.prepare()
        self._folder.log("gateway").parent.mkdir(exist_ok=True)
        catalogue_of(self._settings)  # what is wrong with the models is better said here than in a log
        standby = self._settings.standby
        if standby and self._folder.held("supervisor"):
            self._say(f"Another fabric runs on {self._folder.root}; this one takes over when it is gone.")
        with self._folder.hold("supervisor", wait=standby):
            self._wake = _wake_on_signals()
            try:
                self._adopt_or_clear()
                self._start_gateway()
                if "agent" not in self._services:
                    self._start_agent()
                self._on_ready(self._url)
                self._watch()
            except _Stopped:
                self._drain()
            finally:
                for name in ("agent", "gateway"):
                    if name in self._services:
                        self._services.pop(name).stop()

    def _say(self, sentence: str) -> None:
        with suppress(OSError):  # whoever listened may be gone, with the terminal
            self._on_wait(sentence)

    def _drain(self) -> None:
        """Have the gateway end when no job runs any more, or when it has waited long enough, or is told to once more."""
        gateway = self._services.get("gateway")
        if gateway is None:
            return
        os.read(self._wake, 1)
        gateway.signal(signal.SIGTERM)
        if select.select([self._wake, gateway.pidfd], [], [], _QUICK_DRAIN_S)[0]:
            return
        patience_s = self._settings.drain_s
        self._say(
            f"Waiting for jobs that run, for up to {patience_s:.0f} s. Ctrl-C stops at once: they are tried again at the next start."
        )
        select.select([self._wake, gateway.pidfd], [], [], patience_s + _STOP_TIMEOUT_S)

    def _adopt_or_clear(self) -> None:
        """Services of a supervisor that was killed: the gateway is replaced, a fitting agent taken over."""
        gateway = self._folder.facts("gateway")
        if gateway is not None:
            _found("gateway", gateway["pid"]).stop()
        agent = self._folder.facts("agent")
        if agent is None:
            return
        service = _found("agent", agent["pid"])
        same_address = gateway is not None and agent["gateway"] == gateway["url"]
        certificate = self._settings.tls_cert and str(self._settings.tls_cert)
        same_trust = agent.get("certificate") == certificate
        if same_address and same_trust and self._settings.port in (0, _port_of(agent["gateway"])):
            # The agent dials the address it knows, so the new gateway takes that port again.
            self._settings = self._settings.model_copy(update={"port": _port_of(agent["gateway"])})
            self._services["agent"] = service
        else:
            service.stop()

    def _start_gateway(self) -> None:
        """Start it and wait until it answers: without end, if it may have to stand by."""
        self._start("gateway", {})
        deadline = math.inf if self._settings.standby else time.monotonic() + _READY_TIMEOUT_S
        while time.monotonic() < deadline:
            facts = self._folder.facts("gateway")
            if facts is not None and facts["pid"] == self._services["gateway"].pid:
                self._url = str(facts["url"])
                # After a restart the agent must find it at the same place.
                self._settings = self._settings.model_copy(update={"port": _port_of(self._url)})
                return
            process = self._services["gateway"].process
            if process is not None and (status := process.poll()) is not None:
                os.close(self._services.pop("gateway").pidfd)
                raise self._last_words("gateway", status)
            if select.select([self._wake], [], [], 0.02)[0]:
                raise _Stopped
        self._services.pop("gateway").stop()
        raise SetupError(
            errors.INTERNAL, "The gateway did not come up in time.", f"See {self._folder.log('gateway')}."
        )

    def _last_words(self, name: str, status: int | None) -> SetupError:
        """The error with which a service ended, from the last line of its log."""
        if status == _COULD_NOT_SPEAK:
            log = self._folder.log(name)
            return SetupError(errors.STORAGE_FULL, f"There is no room for the {name}'s log {str(log)!r}.", "")
        lines = self._folder.log(name).read_text(errors="replace").strip().splitlines()
        match = re.fullmatch(r"Error: (.+) \[(\w+)\]", lines[-1]) if lines else None
        kind = errors.catalogue().get(match[2]) if match else None
        if match is None or kind is None:
            return SetupError(
                errors.INTERNAL, f"The {name} ends as soon as it starts.", f"See {self._folder.log(name)}."
            )
        return SetupError(kind, match[1], "")

    def _start_agent(self) -> None:
        """Start it; it looks for our own gateway first."""
        urls = [self._url, *(other for other in self._settings.gateway_url if other != self._url)]
        self._start("agent", {"EDIF_GATEWAY_URL": json.dumps(urls)})

    def _start(self, name: str, extra: dict[str, str]) -> None:
        variables = {**environment(), **self._settings.as_environment(), **extra, "EDIF_LOG_JSON": "true"}
        if name == "agent":
            variables = {key: value for key, value in variables.items() if not _for_the_database(key)}
        with self._folder.log(name).open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - our own program, no shell
                [sys.executable, "-m", "edif", name],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
            )
        self._services[name] = _Service(
            name, os.pidfd_open(process.pid), process.pid, process, time.monotonic()
        )

    def _watch(self) -> None:
        while True:
            fds = {service.pidfd: service for service in self._services.values()}
            readable, _, _ = select.select([self._wake, *fds], [], [])
            if self._wake in readable:
                raise _Stopped
            for fd in readable:
                self._replace(fds[fd])

    def _replace(self, dead: _Service) -> None:
        status = dead.reap()
        os.close(dead.pidfd)
        del self._services[dead.name]
        if dead.name == "gateway":
            self._restart_gateway()
        else:
            self._restart_agent(dead, status)

    def _restart_agent(self, dead: _Service, status: int | None) -> None:
        """Bring the agent up again; give up when it dies by itself, again and again, as soon as it is started."""
        by_itself = status not in (None, -signal.SIGKILL, -signal.SIGTERM)
        left = by_itself and time.monotonic() - dead.started < _QUICK_S
        self._quick_leaves = self._quick_leaves + 1 if left else 0
        if left:
            self._pass_over(self._last_words("agent", status), self._quick_leaves)
        else:
            self._told = ""
        self._pause(self._quick_leaves)
        self._start_agent()

    def _restart_gateway(self) -> None:
        """Bring the gateway up again, however often it dies; give up only when it cannot come up at all."""
        for failed in itertools.count():
            self._pause(failed)
            try:
                self._start_gateway()
            except SetupError as error:
                self._pass_over(error, failed + 1)
            else:
                if self._told:
                    self._told = ""
                    self._say("The gateway has come up again.")
                return

    def _pass_over(self, error: SetupError, failed: int) -> None:
        """Go on trying after so many failures in a row.

        Raises:
            SetupError: this one, for it stands in the configuration, or nothing says that it can pass.
        """
        if error.kind in _PASSING:
            if error.sentence != self._told:
                self._told = error.sentence
                self._say(f"{error.sentence} It is tried again until this has passed. [{error.code}]")
        elif error.kind in _CONFIGURATION or failed >= _TRIES:
            raise error

    def _pause(self, failed: int) -> None:
        """Wait before the next try: longer and longer, once it has failed for some time."""
        doublings = min(max(failed - _TRIES, 0), 10)
        pause_s = min(_RESTART_PAUSE_S * 2**doublings, _LONGEST_PAUSE_S)
        if select.select([self._wake], [], [], pause_s)[0]:
            raise _Stopped


def _for_the_database(variable: str) -> bool:
    """Whether a variable leads to the records: an agent needs none of them. libpq reads those that begin with PG."""
    return variable == "EDIF_RECORD_STORE" or variable.startswith("PG")


def _found(name: str, pid: int) -> _Service:
    return _Service(name, os.pidfd_open(pid), pid, None, time.monotonic())


def _port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def _wake_on_signals() -> int:
    """A descriptor that becomes readable when the process is asked to stop."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    asked = False

    def wake(number: int, _: object) -> None:
        nonlocal asked
        # A terminal that closes says so more than once: from the kernel and from the shell. That is no hurry.
        if not (asked and number == signal.SIGHUP):
            os.write(write, b"x")
        asked = True

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
        numbers.append(signal.SIGHUP)
    for number in numbers:
        signal.signal(number, wake)
    return read
