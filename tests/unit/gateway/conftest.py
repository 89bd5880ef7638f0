"""The gateway's real parts over a data folder of the test."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from edif.blobs.file_blobs import FileBlobs
from edif.blobs.links import LinkSigner
from edif.core.ids import UserName
from edif.core.limits import DEFAULT_LIMITS
from edif.core.users import Role, User
from edif.gateway.app import create_app
from edif.gateway.auth import Authenticator, AuthRates, Tokens
from edif.gateway.edge import Edge, EdgeConfig
from edif.gateway.fabric import Fabric, FabricConfig
from edif.gateway.hub import HubMirror
from edif.gateway.rates import Pace, RateLimiter
from edif.gateway.subscribers import Subscribers
from edif.models.catalogue import Catalogue, Deployment
from edif.records.keys import mint
from edif.records.migrate import open_store
from edif.records.sql_store import SqlRecordStore
from edif.wire.link import ModelSpec
from tests.unit.gateway.agent_stub import AgentStub

TOKENS = Tokens(operator="operator_secret", worker="worker_secret")
RATES = AuthRates(requests_per_s=1e6, refusals_per_s=1e6)

ADA = UserName("ada")
START = 1_000.0

EdgeMaker = Callable[[HubMirror], Edge]


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[SqlRecordStore]:
    store = await open_store(tmp_path)
    yield store
    await store.close()


@pytest.fixture
def blobs(tmp_path: Path) -> FileBlobs:
    return FileBlobs(tmp_path / "blobs")


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue([Deployment(ModelSpec("m/one"), sealed_at_once=3)])


@pytest.fixture
def fabric(records: SqlRecordStore, blobs: FileBlobs, catalogue: Catalogue) -> Fabric:
    return Fabric(
        FabricConfig(DEFAULT_LIMITS, push_bytes=2**20, lease_s=30.0, store_id="store"),
        records=records,
        blobs=blobs,
        catalogue=catalogue,
        signer=LinkSigner(b"link key"),
    )


@pytest.fixture
async def agent(fabric: Fabric, blobs: FileBlobs) -> AsyncIterator[AgentStub]:
    task = asyncio.create_task(fabric.run())
    yield AgentStub(fabric, blobs, task)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def edge_with(records: SqlRecordStore, fabric: Fabric, blobs: FileBlobs) -> EdgeMaker:
    """Makes the routes' state around a Hub mirror."""

    def make(hub: HubMirror) -> Edge:
        return Edge(
            EdgeConfig(public_url=None, trusted_proxies=(), public_status=True, min_free_bytes=0),
            fabric,
            Authenticator(records, TOKENS, RATES, loopback_only=True),
            RateLimiter("such requests", 20.0),
            Pace(1e6),
            Subscribers(),
            blobs,
            hub,
        )

    return make


@pytest.fixture
async def gateway(
    edge_with: EdgeMaker, records: SqlRecordStore, tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    """Speaks with the routes over these parts."""
    app = create_app(edge_with(HubMirror(tmp_path / "hub", None)), records)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        yield client


async def add_key(
    records: SqlRecordStore,
    user: UserName = ADA,
    role: Role = Role.RESEARCHER,
    valid_s: float | None = None,
    email: str | None = None,
) -> tuple[str, str]:
    """A user with a key: the secret and the key's id."""
    await records.add_user(User(user, role, START, email))
    secret, key = mint(user, START, valid_s)
    await records.add_key(key)
    return secret, key.id
