"""A real S3 server on loopback: a Ceph Object Gateway over one monitor and one OSD, in a folder of its own.

Where it is not installed the tests that need it are skipped, and say so; with ``EDIF_TEST_SERVERS=required``, as in CI,
they fail. It takes about 15 s and 500 MB, so that all tests of a session share one; each takes a bucket of its own.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest

from edif.blobs.s3_requests import Bucket, Credentials, request
from tests.support.ports import held_port

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "monmaptool", "ceph-authtool")
CREDENTIALS = Credentials("EDIFTESTACCESSKEY", "edif/test+secret/that+needs/escaping0000")
REGION = "us-east-1"
START_TIMEOUT_S = 180.0
_MIB = 2**20

_numbers = count()

_CONFIG = """
[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{mon_port}/0]
mon_initial_members = a
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
keyring = {folder}/keyring
mon_data = {folder}/mon
osd_data = {folder}/osd
run_dir = {folder}
admin_socket = {folder}/$name.asok
log_file = {folder}/$name.log
pid_file = {folder}/$name.pid
crash_dir = {folder}
auth_allow_insecure_global_id_reclaim = false
# One copy on one OSD, whatever little room the disk has.
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_crit = 1
# A sparse file, small caches.
osd_objectstore = bluestore
bluestore_block_size = {block_bytes}
bluestore_block_db_create = false
bluestore_block_wal_create = false
bluestore_cache_autotune = false
bluestore_cache_size = {cache_bytes}
[client.rgw]
rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw_dns_name = localhost
rgw_thread_pool_size = 16
rgw_enable_usage_log = false
"""


@dataclass
class RadosGateway:
    """Start it with :func:`running_radosgw`. The cluster behind it stays up when :meth:`stop` ends the gateway."""

    folder: Path
    port: int
    mon_port: int
    _cluster: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _gateway: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """The variables that tell a process of eDIF, as any S3 client, how to get in."""
        return {
            "AWS_ACCESS_KEY_ID": CREDENTIALS.access_key,
            "AWS_SECRET_ACCESS_KEY": CREDENTIALS.secret_key,
        }

    def new_bucket(self) -> str:
        """The name of an empty bucket."""
        name = f"edif-{next(_numbers)}"
        self.request("PUT", name)
        return name

    def objects(self, bucket: str) -> dict[str, int]:
        """Every object of a bucket with its size, as the server keeps them."""
        listed = self.request("GET", bucket, query={"list-type": "2", "max-keys": "1000"})
        return dict(zip(_all(listed, "Key"), map(int, _all(listed, "Size")), strict=True))

    def unfinished_uploads(self, bucket: str) -> list[str]:
        """The keys of uploads in parts that nobody has ended."""
        return _all(self.request("GET", bucket, query={"uploads": ""}), "Key")

    def begin_upload(self, bucket: str, key: str) -> None:
        """An upload in parts, as somebody who dies leaves it."""
        self.request("POST", bucket, key, query={"uploads": ""})

    def request(self, method: str, bucket: str, key: str = "", query: dict[str, str] | None = None) -> str:
        """One signed request without a body."""
        where = Bucket(bucket, "", self.endpoint, REGION, CREDENTIALS)

        async def ask() -> bytes:
            async with httpx.AsyncClient() as http:
                return await request(http, where, method, key, query or {})

        with ThreadPoolExecutor(1) as thread:  # whoever asks may be in an event loop
            return thread.submit(asyncio.run, ask()).result().decode()

    def start(self) -> None:
        """The Object Gateway alone; returns when it answers."""
        self._gateway = self._spawn("radosgw", "-n", "client.rgw")
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self._gateway.poll() is None, self._last_words()
            time.sleep(0.1)
        raise AssertionError(self._last_words())

    def stop(self) -> None:
        """The Object Gateway goes, and says so to the cluster: else what it watched stays locked for half a minute."""
        assert self._gateway is not None
        self._gateway.terminate()
        self._gateway.wait(timeout=60)
        self._gateway = None

    def bring_up(self) -> None:
        """The cluster, a user, the Object Gateway."""
        fsid = str(uuid.uuid4())
        (self.folder / "ceph.conf").write_text(
            _CONFIG.format(
                folder=self.folder,
                fsid=fsid,
                port=self.port,
                mon_port=self.mon_port,
                block_bytes=4096 * _MIB,
                cache_bytes=64 * _MIB,
            )
        )
        for name in ("mon", "osd"):
            (self.folder / name).mkdir()
        self._make_keys()
        monmap = str(self.folder / "monmap")
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{self.mon_port}]", monmap)  # fmt: skip
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        self._cluster.append(self._spawn("ceph-mon", "-i", "a"))
        disk = str(uuid.uuid4())
        self._run("ceph", "osd", "new", disk)
        self._run("ceph", "auth", "import", "-i", str(self.folder / "keyring"))
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        self._cluster.append(self._spawn("ceph-osd", "-i", "0"))
        self.start()
        keys = (f"--access-key={CREDENTIALS.access_key}", f"--secret={CREDENTIALS.secret_key}")
        self._run("radosgw-admin", "user", "create", "--uid=edif", "--display-name=edif", *keys)

    def take_down(self) -> None:
        if self._gateway is not None:
            self.stop()
        for process in reversed(self._cluster):
            process.send_signal(signal.SIGKILL)  # its data is not wanted any more
            process.wait()

    def _make_keys(self) -> None:
        keyring = str(self.folder / "keyring")
        self._run("ceph-authtool", "-C", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        everything = [word for part in ("mon", "osd", "mgr") for word in ("--cap", part, "allow *")]
        for name in ("client.admin", "client.rgw", "osd.0"):
            self._run("ceph-authtool", keyring, "--gen-key", "-n", name, *everything)

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / "output").open("ab") as output:
            return subprocess.Popen(
                [*command, "-f", "-c", str(self.folder / "ceph.conf")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
            )

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command,
            env={**os.environ, "CEPH_CONF": str(self.folder / "ceph.conf")},
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            timeout=START_TIMEOUT_S,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"

    def _last_words(self) -> str:
        return (self.folder / "output").read_text()[-3000:]


def _all(xml: str, tag: str) -> list[str]:
    return [found.text or "" for found in ElementTree.fromstring(xml).iter() if found.tag.endswith(tag)]


@contextlib.contextmanager
def running_radosgw() -> Iterator[RadosGateway]:
    """A server that is gone afterwards, with all its data."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        if os.environ.get("EDIF_TEST_SERVERS") == "required":
            pytest.fail(f"{missing[0]} is not installed, and EDIF_TEST_SERVERS=required asks for it.")
        pytest.skip(f"{missing[0]} is not installed (Debian: apt install radosgw ceph-mon ceph-osd).")
    folder = Path(tempfile.mkdtemp(prefix="edif-radosgw-"))  # a socket's path has little room
    port, holder = held_port()
    mon_port, mon_holder = held_port()
    server = RadosGateway(folder, port, mon_port)
    try:
        server.bring_up()
        yield server
    finally:
        server.take_down()
        holder.close()
        mon_holder.close()
        shutil.rmtree(folder)
