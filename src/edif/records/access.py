"""How the records are read and written, whatever they are about."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from edif.records import audit_tail
from edif.records.database import READERS, Database, Doing, cut_off
from edif.records.writer import Writer

T = TypeVar("T")


class Access:
    """The thread that writes and those that read; what is kept about each noun builds on it.

    Every write may be asked for again when its answer was not heard, and answers as it did the first time.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._write_engine = database.engine(writing=True)
        self._read_engine = database.engine(writing=False)
        self._writer = Writer(self._write_engine, database.told, audit_tail.write)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="records-reader")

    async def close(self) -> None:
        """Finish the writes that wait, and end."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.close()
        self._readers.shutdown()
        self._write_engine.dispose()
        self._read_engine.dispose()

    async def check(self) -> None:
        await self._write(lambda connection: connection.exec_driver_sql("SELECT 1").scalar_one())

    async def _write(self, work: Callable[[sa.Connection], T]) -> T:
        """Several statements in one transaction; what they did is durable when this returns."""
        return await self._writer.do(work)

    async def _run(self, statement: sa.Executable, values: dict[str, Any] | None = None) -> int:
        """One statement in a transaction of its own; the number of rows that it changed."""
        return await self._write(lambda connection: connection.execute(statement, values).rowcount)

    async def _fetch(
        self, statement: sa.Select[Any], values: dict[str, Any] | None = None
    ) -> Sequence[sa.Row[Any]]:
        def read(*, again: bool = True) -> Sequence[sa.Row[Any]]:
            try:
                with self._read_engine.connect() as connection:
                    return connection.execute(statement, values).all()
            except DBAPIError as error:
                if again and cut_off(error):  # since the last read, as a rule
                    return read(again=False)
                raise self._database.told(error, Doing.READING) from error

        return await asyncio.get_running_loop().run_in_executor(self._readers, read)
