"""One fabric without users for several files, with short limits and a copy of the model that a test may spoil.

Who uses it leaves it as it was, and stands in ``tests/support/parts.py``.
"""

import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.fabric import Fabric, start_fabric
from tests.support.models import GPT2_ID
from tests.support.replay import Replayer

TIME_LIMIT_S = 6
PROXY = "127.0.0.2"  # whose forwarded headers are believed
RESULT_LIMIT_BYTES = 32 * 2**20


@pytest.fixture(scope="session")
def fabric(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    folder = tmp_path_factory.mktemp("fabric")
    running = start_fabric(
        folder / "data",
        *("--model", f"{GPT2_ID}={shutil.copytree(models[GPT2_ID], folder / 'model')}"),
        EDIF_TIME_LIMIT_S=str(TIME_LIMIT_S),
        EDIF_RESULT_LIMIT_BYTES=str(RESULT_LIMIT_BYTES),
        EDIF_PAYLOAD_LIMIT_BYTES=str(2 * 2**20),
        EDIF_PAYLOAD_EXPANDED_LIMIT_BYTES=str(8 * 2**20),
        EDIF_LOG_LIMIT_BYTES="20000",
        EDIF_MIN_FREE_BYTES="0",
        EDIF_TRUSTED_PROXIES=json.dumps([PROXY]),
    )
    running.wait_running(GPT2_ID)
    yield running
    assert running.stop() == 0


@pytest.fixture
async def client(fabric: Fabric, blobs: Path) -> AsyncIterator[Replayer]:
    async with Replayer(fabric.url, blobs) as replayer:
        yield replayer
