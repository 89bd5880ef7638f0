"""Working on the record store itself, as the commands do that need no running gateway."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from edif.cli.output import note
from edif.core.audit import actor_account
from edif.records.store import RecordStore
from edif.settings import load

T = TypeVar("T")


def with_store(config: Path | None, data: Path | None, work: Callable[[RecordStore], Awaitable[T]]) -> T:
    """Do ``work`` on the fabric's record store, beside whatever gateway runs, or without one.

    A folder without a store is a new fabric's, or the wrong one: it is said, for users added there help nobody elsewhere.
    """
    from edif.records.migrate import open_store
    from edif.records.sqlite import DATABASE_NAME

    settings = load(config, data=data)
    folder = settings.data.resolve()
    if settings.record_store is None and not (folder / DATABASE_NAME).exists():
        note(
            f"No fabric has its records in {str(folder)!r} yet: they are begun now. Another folder: --data DIR"
        )

    async def main() -> T:
        url = settings.record_store.get_secret_value() if settings.record_store is not None else ""
        store = await open_store(folder, url)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(main())


def me() -> str:
    """Who is noted in the audit log for what this command does."""
    return actor_account(os.getuid())
