"""One fabric per test module, without users, with short limits."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.fabric import Fabric, start_fabric
from tests.support.models import GPT2_ID
from tests.support.replay import Replayer

TIME_LIMIT_S = 6
RESULT_LIMIT_BYTES = 32 * 2**20


@pytest.fixture(scope="module")
def fabric(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    running = start_fabric(
        tmp_path_factory.mktemp("fabric") / "data",
        "--model",
        f"{GPT2_ID}={models[GPT2_ID]}",
        EDIF_TIME_LIMIT_S=str(TIME_LIMIT_S),
        EDIF_RESULT_LIMIT_BYTES=str(RESULT_LIMIT_BYTES),
        EDIF_PAYLOAD_LIMIT_BYTES=str(2 * 2**20),
        EDIF_PAYLOAD_EXPANDED_LIMIT_BYTES=str(8 * 2**20),
        EDIF_LOG_LIMIT_BYTES="20000",
        EDIF_MIN_FREE_BYTES="0",
    )
    running.wait_running(GPT2_ID)
    yield running
    assert running.stop() == 0


@pytest.fixture
async def client(fabric: Fabric, blobs: Path) -> AsyncIterator[Replayer]:
    async with Replayer(fabric.url, blobs) as replayer:
        yield replayer
