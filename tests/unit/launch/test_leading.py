"""Which gateway leads, and when it gives way."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edif.core import errors
from edif.core.errors import SetupError
from edif.launch import leading as leading_module
from edif.launch.data_folder import DataFolder
from edif.launch.leading import keep_leading, leading
from edif.settings import Settings
from tests.servers.cutter import Cutter, cutter
from tests.servers.postgres import PostgresServer


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leading_module, "STANDBY_EVERY_S", 0.01)
    monkeypatch.setattr(leading_module, "CHECK_EVERY_S", 0.01)
    monkeypatch.setattr(leading_module, "GIVE_WAY_AFTER_S", 0.1)
    monkeypatch.setattr(leading_module, "_HOLD_TRIES", 3)


@pytest.fixture
async def network(postgres: PostgresServer) -> AsyncIterator[Cutter]:
    async with cutter(postgres.new_database()) as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path / "data")
    folder.prepare()
    return folder


def settings(folder: DataFolder, url: str | None, *, standby: bool) -> Settings:
    return Settings(data=folder.root, record_store=url, standby=standby)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_second_one_is_refused_or_waits_its_turn(
    kind: str, folder: DataFolder, request: pytest.FixtureRequest
) -> None:
    url = None if kind == "sqlite" else request.getfixturevalue("postgres").new_database()
    async with leading(settings(folder, url, standby=False), folder):
        with pytest.raises(SetupError) as refused:
            async with leading(settings(folder, url, standby=False), folder):
                pytest.fail("two lead")
        assert refused.value.kind is errors.DATA_IN_USE
        entered = asyncio.Event()

        async def stand_by() -> None:
            async with leading(settings(folder, url, standby=True), folder):
                entered.set()

        with capture_logs() as logs:
            waiting = asyncio.create_task(stand_by())
            while not logs:
                await asyncio.sleep(0.005)
        assert logs[0]["event"] == "gateway.standing_by"
        assert not entered.is_set()
    async with asyncio.timeout(60):
        await waiting
    assert entered.is_set()


async def test_database_decides_though_a_file_server_still_keeps_the_folders_lock(
    folder: DataFolder, network: Cutter
) -> None:
    with folder.hold("gateway"), capture_logs() as logs:
        async with leading(settings(folder, network.url, standby=True), folder) as records:
            await records.check()
    assert [entry["event"] for entry in logs] == ["gateway.folder_held"]


async def test_standby_waits_for_the_database_too_and_others_do_not(
    folder: DataFolder, network: Cutter
) -> None:
    network.down = True
    with pytest.raises(SetupError) as refused:
        async with leading(settings(folder, network.url, standby=False), folder):
            pytest.fail("there is no database")
    assert refused.value.kind is errors.STORE_UNREACHABLE

    async def stand_by() -> None:
        async with leading(settings(folder, network.url, standby=True), folder) as records:
            await records.check()

    waiting = asyncio.create_task(stand_by())
    await asyncio.wait([waiting], timeout=0.2)
    assert not waiting.done()
    network.down = False
    async with asyncio.timeout(60):
        await waiting


@pytest.mark.parametrize("standby", [False, True])
async def test_leader_without_a_database_gives_way_only_if_there_may_be_another(
    standby: bool, folder: DataFolder, network: Cutter
) -> None:
    async with leading(settings(folder, network.url, standby=standby), folder) as records:
        keeping = asyncio.create_task(keep_leading(records, standby=standby))
        network.down = True
        await asyncio.wait([keeping], timeout=60.0 if standby else 0.5)
        assert keeping.done() is standby
        network.down = False
        if standby:
            with pytest.raises(SetupError) as ended:
                await keeping
            assert ended.value.kind is errors.STORE_UNREACHABLE
        else:
            await records.check()
            keeping.cancel()
            await asyncio.wait([keeping])
