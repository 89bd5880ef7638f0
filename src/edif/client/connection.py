"""One connection of a program to a fabric, and which one is in use."""

import atexit
from functools import partial
from typing import Any

from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel
from tqdm.auto import tqdm

from edif.client import checks, results
from edif.client.api import Api
from edif.client.backend import remote_backend
from edif.client.download import PIECE_BYTES, Download
from edif.client.job import Job
from edif.client.notices import say
from edif.client.overrides import Overrides, steer_hub, steer_nnsight
from edif.client.status_socket import StatusSocket
from edif.core import errors
from edif.core.errors import EdifError

_SOCKET_WAIT_S = 10.0

_open: list["Connection"] = []  # the last one is in use


class Connection:
    """What :func:`edif.connect` returns. As a context manager it ends with its block; otherwise with the next
    :func:`edif.connect`, with :meth:`close` or with the program.

    Attributes:
        url: of the fabric.
        user: whose key is used, as the fabric knows them.
        api: the fabric's routes.
    """

    def __init__(self, url: str, key: str | None) -> None:
        self.url = checks.check_address(url)
        self.closed = False
        self.scoped = False
        self.api = Api(self.url, key, checks.own_versions(), say)
        try:
            checks.check_fabric(self.api)
            self.user = checks.check_key(self.api, key)
            checks.check_versions(self.api)
        except BaseException:
            self.api.close()
            raise
        self._socket = StatusSocket(self.url, key, self.api.tls, self._last_status, say)
        self._socket.wait_open(_SOCKET_WAIT_S)
        self._overrides = Overrides()
        steer_nnsight(self._overrides, self.url, key, remote_backend(self))
        steer_hub(self._overrides, f"{self.url}/hub", key)
        _open.append(self)
        atexit.register(self.close)

    def __repr__(self) -> str:
        return f"<edif.Connection to {self.url} as {self.user}{', closed' if self.closed else ''}>"

    def __enter__(self) -> "Connection":
        self.scoped = True
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the fabric and put everything back as it was. Jobs go on."""
        if self.closed:
            return
        self.closed = True
        _open.remove(self)
        atexit.unregister(self.close)
        self._overrides.restore()
        self._socket.close()
        self.api.close()

    def submit(self, request: RequestModel, blob: bytes) -> Job:
        """Hand in a job, exactly once.

        Raises:
            EdifError: the fabric refuses it, or could not be reached for ten minutes.
        """
        with self._socket.posting() as session:
            first, certain = self.api.submit({**request.model_dump(), "session_id": session}, blob)
            job = Job(self, ResponseModel(**first))
            self._socket.watch(job, session if certain else "")
        return job

    def job(self, job_id: str) -> Job:
        """
        Raises:
            EdifError: there is no such job of this user.
        """
        job = Job(self, ResponseModel(**self.api.get(f"/response/{job_id}")))
        if not job.done:
            self._socket.watch(job, "")
        return job

    def jobs(self, limit: int = 20) -> list[Job]:
        """The newest jobs of this user, newest first."""
        found = self.api.get("/edif/v1/jobs", limit=limit)["jobs"]
        return [self.job(each["id"]) for each in found]

    def fetch(self, final: ResponseModel, *, show: bool) -> Any:
        """The saved values that a job's last status carries or points to."""
        if isinstance(final.data, bytes | bytearray):
            return results.load_pushed(bytes(final.data))
        if not final.data:
            return None
        meta = final.meta or {}
        large = meta.get("result_bytes", 0) > PIECE_BYTES
        with tqdm(
            total=None, unit="B", unit_scale=True, desc="Downloading the result", disable=not (show and large)
        ) as bar:
            download = Download(
                self.api.http, final.data, partial(self._fresh_link, final.id), say, partial(_advance, bar)
            )
            return results.load_download(download, meta.get("result_sha256"))

    def _last_status(self, job_id: str) -> ResponseModel | None:
        try:
            return ResponseModel(**self.api.get(f"/response/{job_id}", patience_s=0))
        except EdifError:
            return None

    def _fresh_link(self, job_id: str) -> str:
        status = ResponseModel(**self.api.get(f"/response/{job_id}"))
        if status.data is None:
            raise EdifError(errors.RESULT_GONE, status.description)
        return str(status.data)


def _advance(bar: Any, arrived: int, total: int) -> None:
    bar.total = total
    bar.update(arrived - bar.n)


def connect(url: str, key: str | None) -> Connection:
    """Replaces the connection in use, unless that one belongs to a ``with`` block around this."""
    if _open and not _open[-1].scoped:
        _open[-1].close()
    return Connection(url, key)


def current() -> Connection:
    """
    Raises:
        EdifError: there is none.
    """
    if not _open:
        raise EdifError(errors.NOT_CONNECTED, "This program is not connected to a fabric.")
    return _open[-1]
