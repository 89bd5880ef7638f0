"""Many traces in flight: those of one block are sent at once and waited for together."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, Token
from types import FrameType
from typing import Any, NamedTuple, Protocol

from nnsight.schema.config import CONFIG
from nnsight.tracing.util import push
from tqdm.auto import tqdm

from edif.client.job import Job

_SENDERS = 4  # so that a slow way to the fabric is not waited out once for each trace

_open: ContextVar["Batch | None"] = ContextVar("open batch", default=None)


class Traced(Protocol):
    """A trace that is to be sent: its :class:`~edif.client.backend.ConnectedBackend`."""

    display: Any

    def send_once(self, blob: bytes) -> Job: ...

    def result(self) -> Any: ...


class _Member(NamedTuple):
    backend: Traced
    sent: Future[Job]


class Batch:
    """``with edif.batch() as batch:`` - each trace of the block is sent at its end and the block waits for all of them.

    Then the saved names are set, in the order of the traces: names that a loop uses again have the last trace's values, and
    ``batch.results`` has everyone's. What fails is raised when all have ended: one error as it is, several as a group.

    Attributes:
        results: of each trace, in order, the saved values by name; None for one that failed. Complete after the block.
    """

    def __init__(self) -> None:
        self.results: list[Any] = []
        self._members: list[_Member] = []
        self._frames: list[
            FrameType
        ] = []  # in which the names are set; kept no longer than that, for they refer to this
        self._pool = ThreadPoolExecutor(_SENDERS, "edif batch")
        self._token: Token[Batch | None] | None = None

    @property
    def jobs(self) -> list[Job]:
        """The jobs of the traces until now, in order; waits until they are sent."""
        return [member.sent.result() for member in self._members]

    def add(self, backend: Traced, tracer: Any, blob: bytes) -> None:
        """A trace has ended and is to be sent."""
        backend.display.enabled = False  # there is one bar for all
        self._frames.append(tracer.info.frame)
        self._members.append(_Member(backend, self._pool.submit(backend.send_once, blob)))

    def __enter__(self) -> "Batch":
        self._token = _open.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._leave(failed=kind is not None):
            _raise(self._hand_over(self._wait()))

    async def __aenter__(self) -> "Batch":
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._leave(failed=kind is not None):
            _raise(self._hand_over(await asyncio.to_thread(self._wait)))

    def _leave(self, *, failed: bool) -> bool:
        """Whether its traces are to be waited for: not those of a block that broke off, which end on their own."""
        if self._token is not None:
            _open.reset(self._token)
        self._pool.shutdown(wait=False)
        if failed:
            self._frames.clear()
        return not failed

    def _wait(self) -> list[Exception | None]:
        """Wait for every member and fetch its result; what went wrong with each."""
        problems: list[Exception | None] = []
        enabled = CONFIG.APP.REMOTE_LOGGING
        for member in tqdm(self._members, desc="Traces", unit="trace", disable=not enabled):
            problem = None
            try:
                member.sent.result()
                member.backend.result()
            except Exception as error:  # noqa: BLE001 - each is raised when all have ended
                problem = error
            problems.append(problem)
        return problems

    def _hand_over(self, problems: list[Exception | None]) -> Iterator[Exception]:
        frames, self._frames = self._frames, []
        for member, frame, problem in zip(self._members, frames, problems, strict=True):
            if problem is None:
                result = member.backend.result()
                push(frame, result)
                self.results.append(result)
            else:
                self.results.append(None)
                yield problem


def _raise(problems: Iterator[Exception]) -> None:
    found = list(problems)
    if len(found) == 1:
        raise found[0]
    if found:
        raise ExceptionGroup(f"{len(found)} traces of this batch failed", found)


def open_batch() -> Batch | None:
    """The one whose block this is in."""
    return _open.get()
