"""One connection of a program to a fabric, and which one is in use."""

import atexit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from nnsight.schema.config import CONFIG
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel
from tqdm.auto import tqdm

from edif.client import checks, results
from edif.client.api import Api
from edif.client.backend import remote_backend
from edif.client.download import Download
from edif.client.job import Job
from edif.client.kept import Kept, fetch_with
from edif.client.link_speed import LinkSpeed
from edif.client.notices import say, tell_rounding
from edif.client.overrides import Overrides, steer_hub, steer_nnsight
from edif.client.status_socket import StatusSocket
from edif.core import errors
from edif.core.errors import EdifError
from edif.core.job import MAX_USED, Rounding
from edif.core.limits import MIB
from edif.wire.kept import opening

_SOCKET_WAIT_S = 10.0
_SHOWN_BYTES = 8 * MIB  # what comes sooner needs no bar

_open: list["Connection"] = []  # the last one is in use, those before it come back when it is left
_overrides = Overrides()


class Connection:
    """What :func:`edif.connect` returns. It is left at the end of its ``with`` block, with :meth:`close` or with the program;
    then the one before it is in use again, or everything is as it was without.

    Attributes:
        url: of the fabric.
        rounding: the dtype as which wider floats travel; None for their own.
        merge: whether traces may share forward passes with those of others.
        user: whose key is used, as the fabric knows them.
        api: the fabric's routes.
        make_backend: what nnsight makes backends with while this connection is in use.
    """

    def __init__(self, url: str, key: str | None, rounding: Rounding | None, *, merge: bool = True) -> None:
        self.url = checks.check_address(url)
        self.key = key
        self.rounding = rounding
        self.merge = merge
        self.closed = False
        self.make_backend = remote_backend(self)
        self._holders = 0
        self._link_speed = LinkSpeed()
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
        atexit.register(self.close)

    @property
    def wishes(self) -> tuple[str, str | None, Rounding | None, bool]:
        """What it was made for."""
        return self.url, self.key, self.rounding, self.merge

    def __repr__(self) -> str:
        return f"<edif.Connection to {self.url} as {self.user}{', closed' if self.closed else ''}>"

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._holders -= 1
        if not self._holders:
            self.close()

    def hold(self) -> None:
        """One more :func:`edif.connect` has returned it: the end of a ``with`` block does not close it for the others."""
        self._holders += 1

    def close(self) -> None:
        """Leave the fabric. Jobs go on."""
        if self.closed:
            return
        self.closed = True
        _open.remove(self)
        _steer()
        atexit.unregister(self.close)
        self._socket.close()
        self.api.close()

    def submit(self, request: RequestModel, blob: bytes, uses: Sequence[str] = ()) -> Job:
        """Hand in a job, exactly once.

        Args:
            uses: the jobs of whose kept values it makes use.

        Raises:
            EdifError: the fabric refuses it, or could not be reached for ten minutes.
        """
        if len(uses) > MAX_USED:
            raise EdifError(
                errors.REQUEST_INVALID,
                f"The trace refers to values that {len(uses)} jobs keep, in lists too; it may use those of {MAX_USED}.",
                "Keep them in fewer traces, or first gather in one trace what is needed, with edif.keep.",
            )
        with self._socket.posting() as session:
            envelope = {**request.model_dump(), "session_id": session, "edif": self._extras(uses)}
            first, certain = self.api.submit(envelope, blob)
            job = Job(self, ResponseModel(**first))
            if not job.done:
                self._socket.watch(job, session if certain else "")
        return job

    def _extras(self, uses: Sequence[str]) -> dict[str, Any]:
        """What the fabric may know of a client of its own: ``Extras`` in ``core/job.py``."""
        speed = self._link_speed.bytes_per_s
        return {
            "packed": True,
            "rounding": self.rounding,
            "link_bytes_per_s": speed,
            "uses": uses,
            "merge": self.merge,
        }

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
        meta = final.meta or {}
        tell_rounding(meta)
        with opening(lambda place: Kept(partial(_fetch_kept, self), replace(place, job=final.id))):
            if isinstance(final.data, bytes | bytearray):
                return results.load_pushed(bytes(final.data))
            if not final.data:
                return None
            total = int(meta["result_bytes"])
            renew = partial(self._fresh_link, final.id)
            with self._downloading("result", final.data, total, total if show else 0, renew) as download:
                result = results.load_download(download, meta.get("result_sha256"))
            self._link_speed.note(total, download.taken_s)
            return result

    def fetch_kept(self, job_id: str, parts: list[tuple[int, memoryview]]) -> None:
        """Fill these memories with the bytes that begin there, of what a job keeps.

        Raises:
            EdifError: it cannot be had, or is not kept any more.
        """

        def ask() -> dict[str, Any]:
            return dict(self.api.get(f"/edif/v1/jobs/{job_id}/kept"))

        self.api.check_open()
        found = ask()
        wanted = sum(len(memory) for _, memory in parts)
        shown = wanted if CONFIG.APP.REMOTE_LOGGING else 0
        with self._downloading(
            "kept value", found["url"], found["size_bytes"], shown, lambda: str(ask()["url"])
        ) as download:
            download.ranges(parts)
        self._link_speed.note(wanted, download.taken_s)

    @contextmanager
    def _downloading(
        self, what: str, link: str, total: int, shown: int, renew: Callable[[], str]
    ) -> Iterator[Download]:
        """
        Args:
            shown: bytes that are to come, for a bar; 0 for none.
        """
        self.api.check_open()
        with tqdm(
            total=shown,
            unit="B",
            unit_scale=True,
            desc=f"Downloading the {what}",
            disable=shown <= _SHOWN_BYTES,
        ) as bar:
            yield Download(
                self.api.lines,
                link,
                total,
                renew=renew,
                say=say,
                progress=lambda arrived: bar.update(arrived - bar.n),
            )

    def _last_status(self, job_id: str) -> ResponseModel | None:
        try:
            return ResponseModel(**self.api.get(f"/response/{job_id}", patience_s=0))
        except (EdifError, ValueError, TypeError):  # no answer, or none of a fabric
            return None

    def _fresh_link(self, job_id: str) -> str:
        status = ResponseModel(**self.api.get(f"/response/{job_id}"))
        if status.data is None:
            raise EdifError(errors.RESULT_GONE, status.description)
        return str(status.data)


def connect(url: str, key: str | None, rounding: str | None = None, *, merge: bool = True) -> Connection:
    """A connection that is in use from now on: the one in use, if it is to the same fabric with the same key and wishes."""
    wishes = (url.rstrip("/"), key, checks.check_rounding(rounding), merge)
    if not _open or _open[-1].wishes != wishes:
        _open.append(Connection(url, key, wishes[2], merge=merge))
    _open[-1].hold()
    _steer()
    return _open[-1]


def _steer() -> None:
    """Have this process use the last connection, or none."""
    _overrides.restore()
    if _open:
        last = _open[-1]
        steer_nnsight(_overrides, last.url, last.key, last.make_backend)
        steer_hub(_overrides, f"{last.url}/hub", last.key)


def current() -> Connection:
    """
    Raises:
        EdifError: there is none.
    """
    if not _open:
        raise EdifError(errors.NOT_CONNECTED, "This program is not connected to a fabric.")
    return _open[-1]


def _fetch_kept(connection: Connection, job_id: str, parts: list[tuple[int, memoryview]]) -> None:
    """By this connection, or one to the same fabric with the same key that has come after it."""
    if connection.closed and _open and (_open[-1].url, _open[-1].key) == (connection.url, connection.key):
        connection = _open[-1]
    connection.fetch_kept(job_id, parts)


fetch_with(lambda job_id, parts: current().fetch_kept(job_id, parts))
