"""Stores for the contract suite, and openers that close what they opened."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from edif.records.store import RecordStore
from tests.servers.postgres import PostgresServer
from tests.unit.records.factories import StoreFactory


@pytest.fixture(params=["sqlite", "postgres"])
def factory(request: pytest.FixtureRequest) -> StoreFactory:
    if request.param == "sqlite":
        return StoreFactory("sqlite")
    server: PostgresServer = request.getfixturevalue("postgres")
    return StoreFactory("postgres", server.new_database)


@pytest.fixture
async def opened(
    factory: StoreFactory, tmp_path: Path
) -> AsyncIterator[Callable[[], Awaitable[RecordStore]]]:
    """Opens one more store on the test's data; all are closed at the end."""
    stores: list[RecordStore] = []

    async def open_another() -> RecordStore:
        stores.append(await factory.open(tmp_path / "data"))
        return stores[-1]

    yield open_another
    for store in stores:
        await store.close()


@pytest.fixture
async def store(opened: Callable[[], Awaitable[RecordStore]]) -> RecordStore:
    return await opened()
