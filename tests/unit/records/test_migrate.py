"""A record store's schema: made, upgraded from each release, and refused when it cannot be used."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from edif.core import errors
from edif.core.errors import SetupError
from edif.core.job import JobState
from edif.core.users import Role
from edif.records import migrate
from edif.records.migrate import open_store, upgrade
from edif.records.schema import metadata
from edif.records.sqlite import DATABASE_NAME, open_engine
from tests.unit.helpers import open_descriptors
from tests.unit.records.factories import StoreFactory, a_job
from tests.unit.records.released import REVISIONS, fill

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def engine(factory: StoreFactory, tmp_path: Path) -> Iterator[sa.Engine]:
    """Of the thread that writes, on the database that ``factory.open(tmp_path)`` opens."""
    engine = migrate._database(tmp_path, factory.url_of(tmp_path), leading=False).engine(writing=True)
    yield engine
    engine.dispose()


async def open_and_close(data: Path) -> None:
    await (await open_store(data)).close()


def differences(connection: sa.Connection) -> list[object]:
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True}
    )
    return list(compare_metadata(context, metadata))


# -- the schema ----------------------------------------------------------------------------------------
def test_fresh_store_is_what_the_schema_says(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        upgrade(connection)
        assert differences(connection) == []


def test_comparison_would_notice_a_difference(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        upgrade(connection)
        connection.exec_driver_sql("DROP INDEX ix_jobs_ended_at")
        connection.exec_driver_sql("ALTER TABLE users ADD COLUMN shoe_size INTEGER")
        assert len(differences(connection)) == 2


def test_names_of_constraints_are_those_of_the_schema(engine: sa.Engine) -> None:
    """Alembic does not compare these, and a later migration needs them."""
    with engine.begin() as connection:
        upgrade(connection)
        inspector = sa.inspect(connection)
        for table in metadata.sorted_tables:
            assert inspector.get_pk_constraint(table.name)["name"] == table.primary_key.name
            uniques = {c.name for c in table.constraints if isinstance(c, sa.UniqueConstraint)}
            assert {c["name"] for c in inspector.get_unique_constraints(table.name)} == uniques
            assert {key["name"] for key in inspector.get_foreign_keys(table.name)} == {
                key.name for key in table.foreign_key_constraints
            }


def test_upgrading_twice_changes_nothing(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / DATABASE_NAME, writing=True)
    with engine.begin() as connection:
        upgrade(connection)
    before = (tmp_path / DATABASE_NAME).read_bytes()
    with engine.begin() as connection:
        upgrade(connection)
    assert (tmp_path / DATABASE_NAME).read_bytes() == before
    engine.dispose()


async def test_store_that_is_opened_again_keeps_its_records(factory: StoreFactory, tmp_path: Path) -> None:
    store = await factory.open(tmp_path / "deep" / "data")
    job = await store.add_job(a_job())
    await store.close()
    again = await factory.open(tmp_path / "deep" / "data")
    assert await again.job(job.id) == job
    await again.close()


OPENED = """
import asyncio, sys
from pathlib import Path
from edif.records.migrate import open_store

async def main():
    sys.stdin.readline()
    await (await open_store(Path(sys.argv[1]), sys.argv[2])).close()

asyncio.run(main())
"""


async def test_several_processes_may_open_a_fresh_store_at_once(
    factory: StoreFactory, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", OPENED, str(tmp_path), factory.url_of(tmp_path)]
    processes = [subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.close()
    stores = await asyncio.gather(*(factory.open(tmp_path) for _ in range(3)))
    assert [process.wait() for process in processes] == [0, 0, 0]
    job = await stores[0].add_job(a_job())
    assert await stores[2].job(job.id) == job
    for store in stores:
        await store.close()


def test_new_data_folder_is_its_owners_alone(tmp_path: Path) -> None:
    asyncio.run(open_and_close(tmp_path / "data"))
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


# -- from each released schema ---------------------------------------------------------------------------
@pytest.mark.parametrize("revision", REVISIONS)
async def test_records_of_every_released_schema_are_kept(
    revision: str, factory: StoreFactory, engine: sa.Engine, tmp_path: Path
) -> None:
    with engine.begin() as connection:
        fill(connection, revision)
    engine.dispose()
    store = await factory.open(tmp_path)
    waiting, running = await store.unfinished_jobs()
    assert (waiting.id, waiting.state, waiting.cancel_asked) == ("j0", JobState.QUEUED, False)
    assert (running.description, running.meta, running.payload_bytes) == (
        "Gr\u00fc\u00dfe",
        {"run_s": 1.5},
        2**40,
    )
    current = await store.current_attempt(running.id)
    assert current is not None
    assert (current.number, current.lease_until) == (1, 4.5)
    assert await store.ask_cancel(running.id)
    assert await store.lose_attempt(running.id, 1)
    assert (await store.add_job(a_job(client_key="once"))).id == waiting.id
    assert [(user.name, user.role) for user in await store.users()] == [("ada", Role.OPERATOR)]
    key = await store.key_by_digest("digest1")
    assert key is not None
    assert key.usable(99.0)
    await store.close()
    with engine.begin() as connection:
        assert differences(connection) == []


# -- a migration that is killed ------------------------------------------------------------------------
KILLED = """
import os, signal, sys
from pathlib import Path
import sqlalchemy as sa
from edif.records import migrate

database = migrate._database(Path(sys.argv[1]), sys.argv[2], leading=False)
engine, left = database.engine(writing=True), int(sys.argv[3])

@sa.event.listens_for(engine, "after_cursor_execute")
def count(connection, cursor, statement, *_):
    global left
    if statement.lstrip().upper().startswith(("CREATE", "INSERT")):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

with engine.begin() as connection:
    migrate.upgrade(connection)
"""


@pytest.mark.parametrize("statements", [0, 2, 6])
async def test_migration_that_was_killed_half_way_is_done_again(
    factory: StoreFactory, tmp_path: Path, statements: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), factory.url_of(tmp_path), str(statements)],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    store = await factory.open(tmp_path)
    await store.add_job(a_job())
    await store.close()


# -- folders that cannot be used -----------------------------------------------------------------------
async def refused(data: Path) -> SetupError:
    with pytest.raises(SetupError) as error:
        await open_store(data)
    assert str(data) in error.value.sentence or error.value.kind is errors.DATA_NEWER
    return error.value


async def test_store_of_a_newer_release_is_refused_and_left_alone(tmp_path: Path) -> None:
    await open_and_close(tmp_path)
    with sqlite3.connect(tmp_path / DATABASE_NAME) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    error = await refused(tmp_path)
    assert error.kind is errors.DATA_NEWER
    assert "9999" in error.sentence
    with sqlite3.connect(tmp_path / DATABASE_NAME) as connection:
        (version,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    connection.close()
    assert version == "9999"


async def test_database_of_a_newer_release_is_refused(
    factory: StoreFactory, engine: sa.Engine, tmp_path: Path
) -> None:
    await (await factory.open(tmp_path)).close()
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SetupError) as error:
        await factory.open(tmp_path)
    assert error.value.kind is errors.DATA_NEWER


async def test_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert (await refused(tmp_path / "file" / "data")).kind is errors.DATA_UNWRITABLE


async def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a folder")
    assert (await refused(tmp_path / "data")).kind is errors.DATA_UNWRITABLE


async def test_folder_in_place_of_the_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / DATABASE_NAME).mkdir()
    assert (await refused(tmp_path)).kind is errors.DATA_UNWRITABLE


async def test_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    garbage = b"these are my notes, not a database " * 200
    (tmp_path / DATABASE_NAME).write_bytes(garbage)
    error = await refused(tmp_path)
    assert error.kind is errors.DATA_UNWRITABLE
    assert "backup" in error.next_step
    assert (tmp_path / DATABASE_NAME).read_bytes() == garbage


async def test_damaged_database_is_refused(tmp_path: Path) -> None:
    await open_and_close(tmp_path)
    path = tmp_path / DATABASE_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + os.urandom(len(whole) - 100))
    assert (await refused(tmp_path)).kind is errors.DATA_UNWRITABLE


async def test_refused_folder_leaves_no_open_file(tmp_path: Path) -> None:
    (tmp_path / DATABASE_NAME).write_bytes(b"nonsense " * 1000)
    for _ in range(3):
        await refused(tmp_path)
    assert not [path for path in open_descriptors().values() if path.startswith(str(tmp_path))]
