"""Fixtures that several folders share: tiny models, recorded requests."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers.postgres import PostgresServer, running_postgres
from tests.servers.radosgw import RadosGateway, running_radosgw
from tests.support.mint import mint
from tests.support.models import GPT2_ID, make_models
from tests.support.parts import InParts, longest_first, tell_apart
from tests.support.tls import light_certificates


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> InParts:
    return InParts(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tell_apart(items)
    if hasattr(config, "workerinput"):  # one of several processes
        longest_first(items)


@pytest.fixture(scope="session", autouse=True)
def light_https(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For this process and those that it starts: no HTTP client of a test speaks with the world."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in light_certificates(tmp_path_factory.mktemp("https")).items():
            patch.setenv(name, value)
        yield


@contextmanager
def made_once(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """A folder that the processes of one run have in common, for one of them at a time."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder / name


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the tiny models, by id."""
    with made_once(tmp_path_factory, "models") as folder:
        return make_models(folder)


@pytest.fixture(scope="session")
def blobs(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Requests for the tiny GPT-2, minted by the stock client's serialiser."""
    with made_once(tmp_path_factory, "blobs") as folder:
        if not folder.exists():
            mint(models[GPT2_ID], folder.with_suffix(".part")).rename(folder)
        return folder


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """One PostgreSQL for all tests that do not stop it; each takes databases of its own."""
    yield postgres_server
    postgres_server.use_again()


@pytest.fixture(scope="session")
def radosgw() -> Iterator[RadosGateway]:
    """One S3 server for all tests; each takes a bucket of its own, and who stops it starts it again."""
    with running_radosgw() as server:
        yield server
