"""The one thread that writes to the record store (docs/decisions/0002).

It takes all writes that wait, does them in one transaction (should one fail: once more, each in a savepoint
of its own, so that it leaves the others alone) and syncs once: under load many jobs share the price of one commit,
and a call returns only when its effect is on disk.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import InterfaceError, OperationalError

from edif.records.database import Doing, cut_off

_MAX_BATCH = 64

T = TypeVar("T")
_Work = Callable[[sa.Connection], Any]
_Outcome = tuple[Any, Exception | None]


class _Waiting(NamedTuple):
    work: _Work
    future: asyncio.Future[Any]


class Writer:
    """The thread that writes, and the queue in front of it. It keeps one connection.

    Args:
        engine: its connections come from here.
        told: makes of a driver's error what the caller is told.
        at_last: done in every transaction, behind everything else.
    """

    def __init__(
        self,
        engine: sa.Engine,
        told: Callable[[Exception, Doing], Exception],
        at_last: Callable[[sa.Connection], None],
    ) -> None:
        self._engine = engine
        self._told = told
        self._at_last = at_last
        self._connection: sa.Connection | None = None
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="records-writer", daemon=True)
        self._thread.start()

    async def do(self, work: Callable[[sa.Connection], T]) -> T:
        """Have the thread do ``work``; what it did is on disk when this returns."""
        if self._closed:
            raise RuntimeError("the record store is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put(_Waiting(work, future))
        return await future

    def close(self) -> None:
        """Finish what waits, and end the thread."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_for_work = True
        while open_for_work:
            batch = [self._queue.get()]
            while len(batch) < _MAX_BATCH:
                try:
                    batch.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            open_for_work = None not in batch
            # What its caller no longer waits for is not begun.
            self._do([item for item in batch if item is not None and not item.future.cancelled()])
        self._disconnect()

    def _do(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        outcomes = self._transaction([waiting.work for waiting in batch])
        loops = {waiting.future.get_loop() for waiting in batch}
        for loop in loops:  # one, outside of tests: so one wake-up for the whole batch
            answers = [
                (waiting.future, result, failure)
                for waiting, (result, failure) in zip(batch, outcomes, strict=True)
                if waiting.future.get_loop() is loop
            ]
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                loop.call_soon_threadsafe(_answer, answers)

    def _transaction(self, works: list[_Work], *, apart: bool = False, again: bool = True) -> list[_Outcome]:
        """All works in one transaction; the outcome of each.

        Args:
            works: they can be done anew, for what they did is undone when the transaction fails.
            apart: whether each has a savepoint of its own, so that one that fails leaves the others alone.
            again: whether to try once more when the connection is gone.
        """
        outcomes: list[_Outcome] = []
        doing = Doing.WRITING
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            with self._connection.begin():
                for work in works:
                    outcomes.append(
                        self._apart(self._connection, work) if apart else (work(self._connection), None)
                    )
                self._at_last(self._connection)
                doing = Doing.COMMITTING
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait are told
            self._disconnect()
            if doing is Doing.WRITING and again and cut_off(error):  # as a rule since the last transaction
                return self._transaction(works, apart=apart, again=False)
            if doing is Doing.WRITING and not apart and len(works) > 1 and not _concerns_all(error):
                return self._transaction(works, apart=True, again=again)
            return [(None, self._told(error, doing))] * len(works)
        return outcomes

    def _apart(self, connection: sa.Connection, work: _Work) -> _Outcome:
        try:
            with connection.begin_nested():
                return work(connection), None
        except Exception as error:
            if _concerns_all(error):
                raise
            return None, self._told(error, Doing.WRITING)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _concerns_all(error: Exception) -> bool:
    """Whether the transaction is over: a full disk, a lock, a lost connection."""
    return isinstance(error, OperationalError | InterfaceError)


def _answer(answers: list[tuple[asyncio.Future[Any], Any, Exception | None]]) -> None:
    for future, result, failure in answers:
        if future.done():
            continue
        if failure is None:
            future.set_result(result)
        else:
            future.set_exception(failure)
