"""A job on the fabric, for whoever waits for it."""

import asyncio
import queue
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol

from nnsight.intervention.backends.display import StatusDisplay
from nnsight.intervention.backends.remote import RemoteError
from nnsight.schema.config import CONFIG
from nnsight.schema.response import ResponseModel, Status

from edif.client.api import Api
from edif.core import errors
from edif.core.errors import EdifError

_REFRESH_S = 0.1
_FINAL = (Status.COMPLETED, Status.ERROR)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a job has used.

    Attributes:
        seconds: of the model, that count against quota and share.
        result_bytes: of its result, as stored.
        meta: everything that the fabric says of it: docs/protocol.md.
    """

    seconds: float
    result_bytes: int
    meta: dict[str, Any]


class Source(Protocol):
    """Where a job is asked for: the :class:`~edif.client.connection.Connection` that it came by."""

    api: Api
    closed: bool

    def fetch(self, final: ResponseModel, *, show: bool) -> Any:
        """The saved values that a job's last status carries or points to."""
        ...


class Job:
    """Made by :func:`edif.jobs`, :func:`edif.job`, and every trace that goes through a connection.

    Attributes:
        id: as the fabric knows it; good for as long as the fabric keeps it, in any process.
        description: the last thing that was said of it: its place in the queue, its traceback.
    """

    def __init__(self, connection: Source, first: ResponseModel) -> None:
        self._connection = connection
        self.id = first.id
        self.description = first.description
        self._status = first.status
        self._meta: dict[str, Any] | None = None
        self._final: ResponseModel | None = None
        self._result: Any = None
        self._news: queue.SimpleQueue[ResponseModel] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._fetching = threading.Lock()
        self.tell(first)

    def __repr__(self) -> str:
        return f"<edif.Job {self.id} {self.status}>"

    @property
    def status(self) -> str:
        """RECEIVED, QUEUED, DEPLOYING, RUNNING and so on, COMPLETED or ERROR."""
        return str(self._status.value)

    @property
    def done(self) -> bool:
        return self._ended.is_set()

    @property
    def cost(self) -> Cost | None:
        """None until the job has ended."""
        if self._meta is None:
            return None
        seconds = self._meta.get("charged_s", self._meta.get("run_s", 0.0))
        return Cost(float(seconds), int(self._meta.get("result_bytes", 0)), self._meta)

    def tell(self, frame: ResponseModel) -> None:
        """A status that was heard of this job."""
        if self._ended.is_set():
            return  # heard twice, after a connection broke
        if frame.status is not Status.LOG:
            self._status, self.description = frame.status, frame.description
        self._news.put(frame)
        if frame.status in _FINAL:
            self._meta, self._final = frame.meta, frame
            self._ended.set()

    def wait(self, timeout: float | None = None, display: StatusDisplay | None = None) -> "Job":
        """Return when the job has ended, well or not.

        Args:
            timeout: seconds.
            display: where its news are shown; by default a status line, as nnsight's own.

        Raises:
            TimeoutError: it has not ended by then; it goes on.
        """
        display = display or StatusDisplay(enabled=CONFIG.APP.REMOTE_LOGGING)
        deadline = None if timeout is None else time.monotonic() + timeout
        while not (self._ended.is_set() and self._news.empty()):
            try:
                display.update(self._news.get(timeout=_REFRESH_S))
            except queue.Empty:
                display.refresh()
                self._check_waiting(deadline)
        return self

    def _check_waiting(self, deadline: float | None) -> None:
        if self._ended.is_set():
            return
        if self._connection.closed:
            raise EdifError(
                errors.NOT_CONNECTED,
                f"The connection was closed while job {self.id} was waited for; the job goes on.",
                "Connect again, and ask for it with edif.job(ID).",
            )
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError(f"Job {self.id} has not ended yet: it is {self.status}. {self.description}")

    def result(self, timeout: float | None = None, display: StatusDisplay | None = None) -> Any:
        """The saved values by name; waits for them, and downloads them once.

        Raises:
            RemoteError: the job failed; the text is its traceback or the fabric's reason.
            TimeoutError: it has not ended within ``timeout`` seconds; it goes on.
            EdifError: the result cannot be had, or came damaged.
        """
        self.wait(timeout, display)
        final = self._final
        assert final is not None
        if final.status is Status.ERROR:
            raise RemoteError(final.description)
        with self._fetching:
            if self._result is None:
                show = CONFIG.APP.REMOTE_LOGGING if display is None else display.enabled
                self._result = self._connection.fetch(final, show=show)
                final.data = None  # a result that came with the status is not kept twice
        return self._result

    def cancel(self) -> None:
        """Have it end, wherever it is; that this was asked for is on record when this returns.

        Raises:
            EdifError: it has already ended.
        """
        self._connection.api.cancel(self.id)

    def revoke_links(self) -> None:
        """Have no link to its result, or to what it keeps, that was made until now open it any more. This program and others that are connected with
        your key go on with fresh ones; a download that has begun may end.

        Raises:
            EdifError: it has no result, or none any more.
        """
        self._connection.api.revoke_links(self.id)

    def delete_result(self) -> None:
        """Have the fabric delete its result now, and what it keeps, for good. What was downloaded stays in this program.

        Raises:
            EdifError: it has not ended.
        """
        self._connection.api.delete_result(self.id)

    def __await__(self) -> Generator[Any, None, Any]:
        """``await job`` is its result, without holding up the event loop."""
        return asyncio.to_thread(self.result).__await__()
