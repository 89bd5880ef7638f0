"""A real PostgreSQL on loopback, with its defaults of durability, in a folder of its own.

Where it is not installed the tests that need it are skipped, and say so; with ``EDIF_TEST_SERVERS=required``, as in CI,
they fail.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg
import pytest

from tests.support.ports import held_port

PASSWORD = "p@ss:w/rd?"
ESCAPED_PASSWORD = "p%40ss%3Aw%2Frd%3F"
START_TIMEOUT_S = 60.0

_numbers = count()


def programs() -> Path | None:
    """The folder of ``initdb`` and ``postgres``: on the path, or where Debian keeps the newest."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name), reverse=True
    )
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


@dataclass
class PostgresServer:
    """Start it with :func:`running_postgres`. Its databases are reached by TCP, with a password that needs escaping."""

    folder: Path
    programs: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    _taken: list[str] = field(default_factory=list)
    _free: list[str] = field(default_factory=list)

    def url(self, database: str) -> str:
        return f"postgresql://postgres:{ESCAPED_PASSWORD}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.url(database), autocommit=True)

    def new_database(self) -> str:
        """The URL of an empty database."""
        if self._free:
            name = self._free.pop()
            with self.connect(name) as connection:
                connection.execute("DROP SCHEMA public CASCADE")
                connection.execute("CREATE SCHEMA public")
                connection.execute(f'ALTER DATABASE "{name}" RESET ALL')  # type: ignore[arg-type]
        else:
            name = f"edif{next(_numbers)}"
            with self.connect() as connection:
                connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[arg-type]
        self._taken.append(name)
        return self.url(name)

    def use_again(self) -> None:
        """The databases made until now are wanted no more. To make one takes longer than to empty it."""
        self._free += self._taken
        self._taken.clear()

    def start(self) -> None:
        data = str(self.folder / "data")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*_as_postgres(), str(self.programs / "postgres"), "-D", data, "-p", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(psycopg.OperationalError), self.connect():
                return
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self, number: int = signal.SIGINT) -> None:
        """SIGINT ends every session at once and shuts down; SIGQUIT is a crash, after which it recovers from its log."""
        assert self.process is not None
        os.kill(self._server_pid(), number)
        self.process.wait(timeout=60)
        self.process = None

    def _server_pid(self) -> int:
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])


def _as_postgres() -> list[str]:
    """The server refuses to run as root."""
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []


@contextlib.contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A server that is gone afterwards, with all its data."""
    found = programs()
    if found is None:
        if os.environ.get("EDIF_TEST_SERVERS") == "required":
            pytest.fail("PostgreSQL is not installed, and EDIF_TEST_SERVERS=required asks for it.")
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql).")
    # Not below pytest's folders: these are closed to the account that the server runs as.
    folder = Path(tempfile.mkdtemp(prefix="edif-postgres-"))
    port, holder = held_port()
    server = PostgresServer(folder, found, port)
    try:
        password = folder / "password"
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (folder, password):
                shutil.chown(path, "postgres", "postgres")
        subprocess.run(
            [
                *_as_postgres(),
                str(found / "initdb"),
                "-D",
                str(folder / "data"),
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--auth=scram-sha-256",
                f"--pwfile={password}",
            ],
            check=True,
            capture_output=True,
            cwd="/",
        )
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.write(f"listen_addresses = '127.0.0.1'\nunix_socket_directories = '{folder}'\n")
        server.start()
        yield server
    finally:
        if server.process is not None:
            server.stop(signal.SIGQUIT)  # its data is not wanted any more
        holder.close()
        shutil.rmtree(folder)
