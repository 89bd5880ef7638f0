"""Many people on one fabric: shares, classes, quotas, draining, and what an operator sees and does, on real processes."""

import asyncio
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest

from edif.core import errors
from tests.support.fabric import EDIF, PATIENCE_S, Fabric, clean_environment, start_fabric
from tests.support.models import GPT2_ID
from tests.support.replay import Replayer
from tests.support.waiting import eventually, says

CONTACT = "hpc@example.org"


@pytest.fixture(scope="module")
def fabric(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    """Users, two of them in a group, and one slot: who goes first can be seen."""
    data = tmp_path_factory.mktemp("shares") / "data"
    unstarted = Fabric(None, data, "", {})  # type: ignore[arg-type]  # only its command line is used
    unstarted.edif("groups", "add", "lab")
    for name, more in (("ada", ("--group", "lab")), ("bob", ()), ("eve", ("--group", "lab")), ("gil", ())):
        unstarted.edif("users", "add", name, *more)
    running = start_fabric(
        data,
        *("--model", f"{GPT2_ID}={models[GPT2_ID]}", "--isolation", "shared", "--merge", "off"),
        EDIF_CONTACT=CONTACT,
    )
    running.wait_running(GPT2_ID)
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def keys(fabric: Fabric) -> dict[str, str]:
    return {
        name: fabric.edif("keys", "create", "--user", name)["key"] for name in ("ada", "bob", "eve", "gil")
    }


@pytest.fixture
async def people(fabric: Fabric, blobs: Path, keys: dict[str, str]) -> AsyncIterator[dict[str, Replayer]]:
    async with AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(Replayer(fabric.url, blobs, key=key))
            for name, key in keys.items()
        }


async def described(client: Replayer, job: str) -> str:
    return str((await client.get(f"/response/{job}")).json()["description"])


async def running(client: Replayer, name: str) -> str:
    """A job that runs now."""
    job = await client.submit(name)
    await client.until_running(job)
    return job


@asynccontextmanager
async def gate(client: Replayer) -> AsyncIterator[None]:
    """The one slot is taken while entered: what is sent meanwhile waits, however slow the machine is."""
    blocker = await running(client, "endless")
    yield
    await client.cancel(blocker)
    await client.poll(blocker)


async def used(client: Replayer) -> dict[str, Any]:
    answer = await client.get("/edif/v1/quota")
    answer.raise_for_status()
    seen: dict[str, Any] = answer.json()
    return seen


@asynccontextmanager
async def quota(
    fabric: Fabric, member: Replayer, measure: str, amount: str, *whose: str
) -> AsyncIterator[None]:
    """A quota that holds while entered; the gateway has seen it by then, as ``member`` does."""

    async def limited() -> bool:
        seen = await used(member)
        return any(seen[each][measure]["limit"] is not None for each in ("user", "group") if seen[each])

    fabric.edif("quota", "set", measure, amount, *whose)
    try:
        await eventually(limited)
        yield
    finally:
        fabric.edif("quota", "unset", measure, *whose)


def order_of_ends(fabric: Fabric, jobs: list[str]) -> list[str]:
    ended = {job["id"]: job["ended_at"] for job in fabric.edif("jobs", "list", "--limit", "500")}
    return sorted(jobs, key=lambda job: ended[job])


# -- shares --------------------------------------------------------------------------------------------
async def test_a_flood_of_one_user_does_not_hold_up_another(
    fabric: Fabric, people: dict[str, Replayer]
) -> None:
    async with gate(people["gil"]):
        flood = [await people["ada"].submit("hello") for _ in range(20)]
        single = await people["bob"].submit("hello")
    for job in flood:
        await people["ada"].poll(job)
    await people["bob"].poll(single)
    assert order_of_ends(fabric, [*flood, single]).index(single) <= 1


async def test_a_client_that_waits_is_told_its_position(people: dict[str, Replayer]) -> None:
    ada, bob = people["ada"], people["bob"]
    blocker = await running(ada, "slow")
    outcomes = await asyncio.gather(bob.run("hello"), bob.run("hello"))
    told = [frame["description"] for o in outcomes for frame in o.frames if frame["status"] == "QUEUED"]
    assert any("Position 1 " in text for text in told)
    assert any("Position 2 " in text for text in told)
    assert (await ada.poll(blocker))["status"] == "COMPLETED"


async def test_a_higher_class_goes_first_and_a_change_is_seen_by_jobs_that_wait(
    fabric: Fabric, people: dict[str, Replayer]
) -> None:
    ada, bob, eve = (people[name] for name in ("ada", "bob", "eve"))
    async with gate(people["gil"]):
        last = await eve.submit("hello")
        normal = [await bob.submit("hello") for _ in range(3)]
        first = await ada.submit("hello")
        for name, priority in (("ada", "high"), ("eve", "low")):
            fabric.edif("users", "change", name, "--priority", priority)
        await eventually(says(ada, first, "Position 1 "))
        await eventually(says(eve, last, "Position 5 "))
    for client, job in ((ada, first), (eve, last), *((bob, job) for job in normal)):
        assert (await client.poll(job))["status"] == "COMPLETED"
    assert order_of_ends(fabric, [first, *normal, last]) == [first, *normal, last]
    for name in ("ada", "eve"):
        fabric.edif("users", "change", name, "--priority", "")


async def test_who_waits_is_told_the_place_and_the_expected_time(people: dict[str, Replayer]) -> None:
    bob = people["bob"]
    async with gate(people["gil"]):
        waiting = [await bob.submit("hello") for _ in range(2)]
        await eventually(says(bob, waiting[1], "Position 2 in the queue of tiny/gpt2; expected to begin in "))
    for job in waiting:
        await bob.poll(job)


# -- quotas --------------------------------------------------------------------------------------------
async def test_a_full_queue_is_refused_until_there_is_a_place(
    fabric: Fabric, people: dict[str, Replayer]
) -> None:
    ada = people["ada"]
    async with quota(fabric, ada, "queued_jobs", "2", "--user", "ada"):
        async with gate(people["gil"]):
            waiting = [await ada.submit("hello") for _ in range(2)]
            refused = await ada.post("hello")
            assert refused.status_code == 429
            assert refused.json()["code"] == errors.QUOTA_USED_UP.code
            assert "Your quota, 2 jobs in the queue, is used up (2 now)." in refused.json()["detail"]
            assert CONTACT in refused.json()["detail"]
            await ada.cancel(waiting[0])
            await ada.poll(waiting[0])
            waiting.append(await ada.submit("hello"))
        for job in waiting[1:]:
            assert (await ada.poll(job))["status"] == "COMPLETED"


async def test_a_used_up_quota_of_a_group_holds_its_jobs_and_no_others(
    fabric: Fabric, people: dict[str, Replayer]
) -> None:
    """Eve has spent nothing herself: what her group spends binds her too, and a raised quota lets her job go."""
    ada, bob, eve = (people[name] for name in ("ada", "bob", "eve"))
    spent = (await used(ada))["group"]["seconds_per_day"]["used"]
    async with quota(fabric, ada, "seconds_per_day", f"{spent + 0.5:.3f}", "--group", "lab"):
        async with gate(people["gil"]):
            spender = await ada.submit("slow")
            held = await eve.submit("hello")
        await ada.poll(spender)
        await eventually(says(eve, held, "The quota of your group lab"))
        assert "This job waits until then." in await described(eve, held)
        assert (await eve.post("hello")).status_code == 429
        assert (await bob.run("hello")).status == "COMPLETED"
        assert (await eve.get(f"/response/{held}")).json()["status"] == "QUEUED"
    assert (await eve.poll(held))["status"] == "COMPLETED"


async def test_at_most_so_many_jobs_of_a_user_run_and_the_others_go_on(
    fabric: Fabric, people: dict[str, Replayer]
) -> None:
    ada = people["ada"]
    async with quota(fabric, ada, "running_jobs", "0", "--user", "ada"):
        held = await ada.submit("hello")
        assert (await people["bob"].run("hello")).status == "COMPLETED"
        await eventually(says(ada, held, "Your quota, 0 jobs at once, is used up (0 now)."))
        assert (await ada.get(f"/response/{held}")).json()["status"] == "QUEUED"
    assert (await ada.poll(held))["status"] == "COMPLETED"


async def test_everyone_sees_what_they_may_use_and_use(fabric: Fabric, people: dict[str, Replayer]) -> None:
    async with quota(fabric, people["bob"], "stored_bytes", "1GiB", "--each-user"):
        mine = await used(people["bob"])
        assert mine["user"]["stored_bytes"]["limit"] == 2**30
        assert mine["user"]["queued_jobs"] == {"limit": None, "used": 0, "frees_at": None}
        assert mine["group"] is None
        async with gate(people["gil"]):
            job = await people["bob"].submit("hello")
            assert (await used(people["bob"]))["user"]["queued_jobs"]["used"] == 1
        await people["bob"].poll(job)
        assert (await used(people["bob"]))["user"]["queued_jobs"]["used"] == 0
    assert set((await used(people["ada"]))["group"]) == set((await used(people["ada"]))["user"])


# -- what an operator sees -----------------------------------------------------------------------------
async def test_acts_and_usage_are_on_record_by_person(fabric: Fabric, people: dict[str, Replayer]) -> None:
    outcome = await people["ada"].run("hello")
    acts = fabric.edif("audit", "list", "--about", "ada", "--limit", "10000")
    mine = [(act["action"], act["actor_name"]) for act in acts if act["subject"] == outcome.id]
    assert mine == [("job.accepted", "ada")]
    assert "user.signed_in" in {act["action"] for act in acts}
    (ended,) = [
        act for act in fabric.edif("audit", "list", "--about", outcome.id) if "completed" in act["action"]
    ]
    assert ended["actor"] == "fabric"
    assert fabric.edif("audit", "verify")["faults"] == []
    (row,) = [row for row in fabric.edif("usage", "--by", "user") if row["user"] == "ada"]
    assert row["jobs"] >= 1
    assert row["seconds"] > 0
    assert row["tokens"] > 0


async def test_everything_about_a_person_is_exported_and_erased(
    fabric: Fabric, blobs: Path, people: dict[str, Replayer]
) -> None:
    fabric.edif("users", "add", "tom", "--email", "tom@example.org")
    key = fabric.edif("keys", "create", "--user", "tom")["key"]
    async with Replayer(fabric.url, blobs, key=key) as tom:
        job = await tom.submit("keeps")
        end = await tom.poll(job)
        kept = (await tom.get(f"/edif/v1/jobs/{job}/kept")).json()["url"]
        assert (await tom._http.get(kept)).status_code == 200
        exported = fabric.edif("users", "export", "tom")
        assert [each["id"] for each in exported["jobs"]] == [job]
        assert exported["user"]["email"] == "tom@example.org"
        assert "digest" not in json.dumps(exported["keys"])
        pseudonym = fabric.edif("users", "erase", "tom", "--yes")["pseudonym"]
        assert (await tom.post("hello")).json()["code"] in (errors.KEY_UNKNOWN.code, errors.KEY_REVOKED.code)
        assert (await people["ada"].get("/edif/v1/health")).status_code == 200
        for link in (end["data"], kept):
            assert (await tom._http.get(link)).json()["code"] == errors.RESULT_GONE.code
    shown = fabric.edif("jobs", "show", job)
    assert shown["owner"] == pseudonym
    assert "tom" not in json.dumps(fabric.edif("usage"))
    assert "Nothing is on record" in fabric.edif("users", "export", "tom", check=False)
    assert fabric.edif("audit", "verify")["faults"] == []


@pytest.mark.parametrize("where", ["queued", "running"])
async def test_a_job_is_cancelled_once(fabric: Fabric, people: dict[str, Replayer], where: str) -> None:
    bob = people["bob"]
    async with gate(people["gil"]) if where == "queued" else nullcontext():
        job = await bob.submit("hello") if where == "queued" else await running(bob, "endless")
        assert fabric.edif("jobs", "cancel", job) == {"id": job, "cancelling": True}
        end = await bob.poll(job)
    assert end["status"] == "ERROR"
    assert end["description"].endswith("[cancelled]")
    assert "state_conflict" in fabric.edif("jobs", "cancel", job, check=False)


# -- draining ------------------------------------------------------------------------------------------
@pytest.fixture
def own(models: dict[str, Path], tmp_path: Path) -> Iterator[Callable[..., Fabric]]:
    """Starts fabrics without users and with one slot on data folders of the test; ends those that still run."""
    started: list[Fabric] = []

    def start(data: Path = tmp_path / "data", **environment: str) -> Fabric:
        model = ("--model", f"{GPT2_ID}={models[GPT2_ID]}")
        fabric = start_fabric(data, *model, "--merge", "off", **environment)
        started.append(fabric)
        return fabric

    yield start
    for fabric in started:
        if fabric.process.poll() is None:
            fabric.stop()


async def test_a_drained_fabric_begins_nothing_takes_everything_and_goes_on_when_told(
    own: Callable[..., Fabric], blobs: Path
) -> None:
    fabric = own()
    fabric.wait_running(GPT2_ID)
    async with Replayer(fabric.url, blobs) as client:
        async with gate(client):
            assert fabric.edif("drain") == {"draining": True, "running": 1}
            waits = await client.submit("hello")
        await eventually(says(client, waits, "The fabric begins no jobs for a while"))
        status: dict[str, Any] = fabric.edif("status")
        assert (status["draining"], status["running"]) == (True, 0)
        assert fabric.stop() == 0
    fabric = own()
    assert "edif resume" in await asyncio.to_thread(_line_with, fabric, "It was drained")
    async with Replayer(fabric.url, blobs) as client:
        await eventually(says(client, waits, "The fabric begins no jobs for a while"))
        fabric.edif("resume")
        assert (await client.poll(waits))["status"] == "COMPLETED"
    acts = [act["action"] for act in fabric.edif("audit", "list", "--limit", "1000")]
    assert acts.index("fabric.drain_asked") < acts.index("fabric.resumed")


@contextmanager
def hangups(handled: signal.Handlers) -> Iterator[None]:
    """How those who are started while entered take SIGHUP, whatever this process inherited."""
    before = signal.signal(signal.SIGHUP, handled)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
async def test_a_terminal_that_closes_is_a_stop_that_lets_running_jobs_end_and_keeps_those_that_wait(
    own: Callable[..., Fabric], blobs: Path, tmp_path: Path, models: dict[str, Path]
) -> None:
    ours, terminal = os.openpty()
    data = tmp_path / "data"
    model = ("--model", f"{GPT2_ID}={models[GPT2_ID]}", "--merge", "off")
    serve = (EDIF, "serve", "--port", "0", "--data", str(data), *model)
    with hangups(signal.SIG_DFL):
        process = subprocess.Popen(
            ["setsid", "--ctty", *serve],
            env=clean_environment(EDIF_DRAIN_S="60"),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
    os.close(terminal)
    url = await asyncio.to_thread(_url_said_on, ours)
    services = [_process_of(data, name) for name in ("gateway", "agent")]
    fabric = Fabric(process, data, url, clean_environment())
    fabric.wait_running(GPT2_ID)
    async with Replayer(url, blobs) as client:
        runs = await running(client, "slow")
        waits = await client.submit("hello")
        os.close(ours)  # the kernel sends SIGHUP
        process.send_signal(signal.SIGHUP)  # and so do shells
        await asyncio.to_thread(process.wait, 60)
    assert not any(service.is_running() for service in services)
    jobs = {job["id"]: (job["state"], job["attempts"]) for job in _jobs_on_record(fabric)}
    assert jobs == {runs: ("completed", 1), waits: ("queued", 0)}
    again = own()
    async with Replayer(again.url, blobs) as client:
        assert (await client.poll(waits))["status"] == "COMPLETED"
        assert len(await client.fetch(await client.poll(runs))) > 0


def _url_said_on(terminal: int) -> str:
    heard = b""
    while (found := re.search(rb"listening at (\S+) ", heard)) is None:
        heard += os.read(terminal, 4096)
    return found[1].decode()


def _process_of(data: Path, name: str) -> psutil.Process:
    deadline = time.monotonic() + PATIENCE_S
    while not (facts := data / "run" / f"{name}.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return psutil.Process(json.loads(facts.read_text())["pid"])


def _jobs_on_record(fabric: Fabric) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = fabric.edif("users", "export", "local")["jobs"]
    return jobs


@pytest.mark.slow
async def test_a_terminal_that_closes_means_nothing_under_nohup_and_a_second_signal_stops_at_once(
    own: Callable[..., Fabric], blobs: Path
) -> None:
    with hangups(signal.SIG_IGN):  # as nohup does
        fabric = own(EDIF_DRAIN_S="3000")
    fabric.process.send_signal(signal.SIGHUP)
    fabric.wait_running(GPT2_ID)
    async with Replayer(fabric.url, blobs) as client:
        assert (await client.run("hello")).status == "COMPLETED"
        runs = await running(client, "endless")
        assert fabric.process.poll() is None
        fabric.process.send_signal(signal.SIGTERM)
        line = await asyncio.to_thread(_line_with, fabric, "Waiting for jobs that run")
        assert "3000 s" in line
        assert fabric.stop() == 0
    states = {job["id"]: job["state"] for job in _jobs_on_record(fabric)}
    assert states[runs] == "running", "the next start takes it up"


def _line_with(fabric: Fabric, text: str) -> str:
    assert fabric.process.stdout is not None
    for line in fabric.process.stdout:
        if text in line.decode():
            return line.decode()
    raise AssertionError(f"nothing was said with {text!r}")


# -- backups -------------------------------------------------------------------------------------------
@pytest.mark.slow
async def test_a_backup_of_a_running_fabric_becomes_a_fabric(
    fabric: Fabric, people: dict[str, Replayer], own: Callable[..., Fabric], blobs: Path, tmp_path: Path
) -> None:
    client = people["bob"]
    done = await client.submit("hello")
    result = await client.fetch(await client.poll(done))
    blocker = await running(client, "endless")
    waits = await client.submit("hello")
    jobs = len(fabric.edif("jobs", "list", "--limit", "1000"))
    fabric.edif("backup", str(tmp_path / "b.tar.zst"))
    await client.cancel(blocker)
    await client.poll(waits)
    restored = Fabric(None, tmp_path / "again", "", {})  # type: ignore[arg-type]  # only its command line is used
    assert restored.edif("restore", str(tmp_path / "b.tar.zst"))["jobs"] == jobs
    again = own(tmp_path / "again", EDIF_ISOLATION="shared")
    async with Replayer(again.url, blobs, key=client.headers["ndif-api-key"]) as client:
        assert await client.fetch(await client.poll(done)) == result
        await client.cancel(blocker)
        assert (await client.poll(blocker))["status"] == "ERROR"
        assert await client.fetch(await client.poll(waits)) == result
