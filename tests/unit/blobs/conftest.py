"""Both blob stores."""

from pathlib import Path

import pytest

from edif.blobs.store import BlobStore
from tests.servers.radosgw import RadosGateway
from tests.unit.blobs.factories import BlobFactory, files, s3


@pytest.fixture(params=["files", "s3"], scope="module")
def factory(request: pytest.FixtureRequest) -> BlobFactory:
    if request.param == "files":
        return files()
    server: RadosGateway = request.getfixturevalue("radosgw")
    return s3(server)


@pytest.fixture
def store(factory: BlobFactory, tmp_path: Path) -> BlobStore:
    return factory.open(tmp_path)
