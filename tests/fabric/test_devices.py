"""Models on a device: the twin of a card in the host's memory everywhere, a card where there is one.

All processes of a replica write to the same weights there, so what keeps one job's edits from the next is what is tested.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from edif.core import errors
from edif.wire.link import ON_HOST
from tests.support.devices import DEVICES
from tests.support.fabric import Fabric, start_fabric
from tests.support.models import GPT2_ID
from tests.support.replay import Replayer
from tests.support.waiting import eventually

SHARED_ID = "tiny/shared"
PLAIN_ID = "tiny/plain"
ALWAYS_THE_SAME = ("hello", "hidden", "wave", "stops")


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def fabric(
    device: str, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fabric]:
    folder = tmp_path_factory.mktemp("devices")
    weights = models[GPT2_ID]
    (folder / "edif.toml").write_text(
        f"""
        [deployments."{GPT2_ID}"]
        folder = "{weights}"
        device = "{device}"
        isolation = "sealed"
        [deployments."{SHARED_ID}"]
        folder = "{weights}"
        device = "{device}"
        isolation = "shared"
        [deployments."{PLAIN_ID}"]
        folder = "{weights}"
        isolation = "shared"
        """
    )
    running = start_fabric(
        folder / "data",
        *("--config", str(folder / "edif.toml")),
        *("--job-time-limit", "5", "--job-memory-limit", "1.5GiB", "--result-limit", "32MiB"),
    )
    for model in (GPT2_ID, SHARED_ID, PLAIN_ID):
        running.wait_running(model)
    yield running
    assert running.stop() == 0


@pytest.fixture(params=[GPT2_ID, SHARED_ID], ids=["sealed", "shared"])
async def client(request: pytest.FixtureRequest, fabric: Fabric, blobs: Path) -> AsyncIterator[Replayer]:
    async with Replayer(fabric.url, blobs, request.param) as replayer:
        yield replayer


@pytest.mark.parametrize("name", ALWAYS_THE_SAME)
async def test_results_are_those_of_the_processor(
    name: str, device: str, fabric: Fabric, client: Replayer, blobs: Path
) -> None:
    there = await client.run(name)
    assert there.status == "COMPLETED", there.description
    async with Replayer(fabric.url, blobs, PLAIN_ID) as plain:
        here = await plain.run(name)
    if device == ON_HOST:  # a card's last bits are its own
        assert there.result == here.result


async def test_what_a_job_does_to_the_weights_no_other_sees(client: Replayer) -> None:
    calm = (await client.run("hello")).result
    names = ["hello", "edits_weights", "hello", "hello", "edits_weights", "hello", "hello", "exits", "hello"]
    outcomes = await asyncio.gather(*(client.run(name) for name in names))
    for name, outcome in zip(names, outcomes, strict=True):
        assert outcome.status == ("ERROR" if name == "exits" else "COMPLETED"), outcome.description
        if name == "hello":
            assert outcome.result == calm
        if name == "edits_weights":
            assert outcome.result != calm, "it has the logits of what it made of the model"


async def test_the_end_of_a_process_without_a_job_leaves_the_weights_to_the_job_that_runs(
    fabric: Fabric, blobs: Path
) -> None:
    async with Replayer(fabric.url, blobs) as sealed:
        edited = (await sealed.run("edits_weights")).result
        running = asyncio.create_task(sealed.run("edits_weights_and_waits"))
        await asyncio.sleep(1.5)
        for zygote in psutil.Process(fabric.pid("agent")).children():
            max(zygote.children(), key=lambda each: each.pid).kill()
        assert (await running).result == edited
        assert (await sealed.run("hello")).result != edited


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("endless_in_c", errors.TIME_LIMIT, "5 seconds"),
        ("too_much", errors.RESULT_TOO_LARGE, "32.0 MiB"),
    ],
)
async def test_what_ends_a_job_ends_nothing_else(
    name: str, code: errors.ErrorCode, says: str, client: Replayer
) -> None:
    calm = (await client.run("hello")).result
    outcome = await client.run(name)
    assert outcome.status == "ERROR"
    assert outcome.description.endswith(f"[{code.code}]")
    assert says in outcome.description
    assert (await client.run("hello")).result == calm


async def test_a_sealed_job_has_its_limit_of_the_hosts_memory(fabric: Fabric, blobs: Path) -> None:
    async with Replayer(fabric.url, blobs) as sealed:
        outcome = await sealed.run("fills_memory")
    assert outcome.description.endswith(f"[{errors.OUT_OF_MEMORY.code}]"), outcome.description
    assert "it may use 1.5 GiB" in outcome.description


async def test_a_model_whose_keeper_dies_is_loaded_again(fabric: Fabric, client: Replayer) -> None:
    calm = (await client.run("hello")).result
    zygotes = psutil.Process(fabric.pid("agent")).children()
    for zygote in zygotes:
        keeper = min(
            zygote.children(), key=lambda each: each.pid
        )  # the first that it forks; on the processor a runner
        keeper.kill()

    async def two_have_ended() -> bool:
        return sum(not each.is_running() for each in zygotes) == 2

    await eventually(two_have_ended)
    assert (await client.run("hello")).result == calm
