"""Every attack, in one forward pass with an innocent job of somebody else: that one's results have the bits that they have alone."""

import asyncio
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.escape.catalogue import Attack, catalogue
from tests.escape.conftest import (
    HERE,
    LIMITS,
    MIB,
    PLANTED,
    SEALED_SIZES,
    TIMEOUT_S,
    Seen,
    admit,
    pids,
    write_plan,
)
from tests.escape.test_escape import HARM
from tests.sizes import SIZES, SOAK
from tests.support.fabric import Fabric, start_fabric
from tests.support.models import GPT2_ID
from tests.support.replay import Outcome, Replayer
from tests.support.tls import light_certificates

OF_MERGING = ("seat_", "rows_", "endless_at_seat", "physical_addresses", "kill_driver", "read_driver_maps")
MEMORY = ("shrink_", "grow_", "seal_", "execute_", "punch_", "map_")
"""What attacks on merging itself begin with; none of them is ever left out."""


def selection() -> list[Attack]:
    """All of them in the long runs; else those that are about merging, and of the others as many as a seed draws."""
    if SOAK:
        return list(catalogue())
    about = [each for each in catalogue() if each.name.startswith((*OF_MERGING, *MEMORY))]
    others = [each for each in catalogue() if each not in about]
    return about + random.Random(SIZES.merged_attacks).sample(others, SIZES.merged_attacks)


@dataclass(frozen=True, repr=False)
class Merged:
    """What the attacks brought about, by name, and of each the innocent job that was there with it.

    Attributes:
        settled: the processes of the fabric, its driver among them, were the same before and after.
    """

    seen: Seen
    innocent: dict[str, Outcome]
    fabric: Fabric
    settled: bool

    def in_company(self) -> list[str]:
        """Attacks in whose company the innocent job had its pass: it has one row, and that pass had more."""
        return [name for name, job in self.innocent.items() if job.final["meta"].get("shared_rows", 0) > 1]


@pytest.fixture(scope="module")
def merged(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Merged]:
    folder = tmp_path_factory.mktemp("merged")
    model = folder / "model"
    shutil.copytree(models[GPT2_ID], model)
    environment = {"PLANTED_SECRET": PLANTED, **light_certificates(folder)}
    fabric = start_fabric(
        folder / "data",
        *("--model", f"{GPT2_ID}={model}"),
        EDIF_MERGE="always",
        EDIF_MERGE_TOLERANCE="0",
        **LIMITS,
        **environment,
    )
    try:
        fabric.wait_metadata(GPT2_ID)
        keys = {name: admit(fabric, name) for name in ("mallory", "ada")}
        plan = write_plan(
            folder / "merged.json",
            [attack.name for attack in selection()],
            model=GPT2_ID,
            sizes=SEALED_SIZES,
            up=folder / "up.json",
            readable=model / "config.json",
        )
        fabric.wait_running(GPT2_ID)
        before = pids(fabric)
        (folder / "up.json").write_text(
            json.dumps({"pids": before, "data": str(fabric.data), "planted": PLANTED})
        )
        remote = fabric.client_environment(folder / "hub", keys["mallory"]) | environment
        innocent = asyncio.run(_attack(fabric, plan, remote, keys))
        seen: Seen = json.loads(plan.with_suffix(".out").read_text())
        yield Merged(seen, innocent, fabric, before == pids(fabric))
    finally:
        fabric.stop()


async def _attack(
    fabric: Fabric, plan: Path, environment: dict[str, str], keys: dict[str, str]
) -> dict[str, Outcome]:
    """Send what ``merged.py`` makes, each beside the innocent job, until it is through; the innocent jobs, by attack."""
    innocent: dict[str, Outcome] = {}
    with plan.with_suffix(".log").open("wb") as log:
        maker = await asyncio.create_subprocess_exec(
            *(sys.executable, HERE / "merged.py", plan),
            env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
            cwd=HERE,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        assert maker.stdin is not None
        assert maker.stdout is not None
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                Replayer(fabric.url, plan.parent, GPT2_ID, keys["mallory"]) as mallory,
                Replayer(fabric.url, plan.parent, GPT2_ID, keys["ada"]) as ada,
            ):
                quiet = b""
                while line := await maker.stdout.readline():
                    request = json.loads(line)
                    name, payload = request["name"], Path(request["payload"])
                    quiet = quiet or payload.read_bytes()
                    jobs = [_run(ada, quiet), *([_run(mallory, payload.read_bytes())] if name else [])]
                    own, *attack = await asyncio.gather(*jobs)
                    if name:
                        innocent[name] = own
                    answer = _told(payload, own, attack[0] if attack else None)
                    maker.stdin.write(json.dumps(answer).encode() + b"\n")
                    await maker.stdin.drain()
            assert await maker.wait() == 0, plan.with_suffix(".log").read_text()[-3000:]
        finally:
            if maker.returncode is None:
                os.killpg(maker.pid, signal.SIGKILL)
            await maker.wait()
    return innocent


async def _run(client: Replayer, blob: bytes) -> Outcome:
    return await client.run("request.raw", blob=blob)


def _told(payload: Path, own: Outcome, attack: Outcome | None) -> dict[str, Any]:
    """What came of both, for ``merged.py``."""
    innocent = payload.with_suffix(".innocent")
    innocent.write_bytes(own.result or b"")
    told = {"innocent": str(innocent) if own.result else "", "text": own.description, "result": ""}
    if attack is not None:
        told["text"] = "".join(str(frame["description"]) for frame in attack.frames)
        if attack.result is not None and len(attack.result) < 64 * MIB:
            result = payload.with_suffix(".result")
            result.write_bytes(attack.result)
            told["result"] = str(result)
    return told


@pytest.mark.parametrize("attack", [pytest.param(attack, id=attack.name) for attack in selection()])
def test_brings_nothing_about_in_company(attack: Attack, merged: Merged) -> None:
    """``neighbour`` among the harm: the innocent job's bits are not those of a run without attackers."""
    seen = merged.seen[attack.name]
    assert [effect for effect in HARM if seen[effect]] == [], f"{attack.doc} {seen['text'][-500:]}"


def test_attacks_were_in_company(merged: Merged) -> None:
    company = merged.in_company()
    apart = sorted(set(merged.innocent) - set(company))
    print(f"{len(company)} of {len(merged.innocent)} in company; not: {apart}")
    assert len(company) > 0.9 * len(merged.innocent), apart


def test_the_fabric_is_the_same_as_before(merged: Merged) -> None:
    assert merged.settled
    assert merged.seen.keys() == merged.innocent.keys() == {attack.name for attack in selection()}
    log = merged.fabric.log("agent")
    assert "Traceback" not in log
    for event in ("agent.replica_failed", "replica.driver_died", "replica.merging_given_up"):
        assert event not in log
