"""Sealed fabrics, and one process each that runs attacks on one and without it, at the same time."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.escape.catalogue import ATTACKS, Attack, catalogue
from tests.sizes import SOAK
from tests.support.fabric import PATIENCE_S, Fabric, clean_environment, start_fabric
from tests.support.models import GPT2_ID
from tests.support.ordinary import Host
from tests.support.tls import light_certificates

HERE = Path(__file__).parent
MIB = 2**20
TIMEOUT_S = 1_600 if SOAK else 500
"""For all attacks on one fabric."""
PLANTED = "SECRET-9f3a7c51e2d04b86"

# How far a bomb goes. Without walls it must not go far; against them it must go further than is allowed.
BARE_SIZES: dict[str, Any] = {
    "forks": 20,
    "threads": 100,
    "memory": 64 * MIB,
    "kernel_memory": 8 * MIB,
    "descriptors": 600,
    "signals": 600,
    "disk": 32 * MIB,
    "inodes": 20_000,
    "result_bytes": 32 * MIB,
    "print_bytes": 2 * MIB,
    "frames": 50,
    "flood": False,
}
SEALED_SIZES = {**BARE_SIZES, "threads": 6_000, "memory": 1024 * MIB, "kernel_memory": 256 * MIB}
SEALED_SIZES |= {"frames": 300, "flood": True}

# Attacks that namespaces stop where there are some, and that only the other walls stop where there are none.
WITHOUT_NAMESPACES = """
    tcp_connect udp_send dns_query listen unix_stream unix_datagram abstract_socket abstract_datagram_from_pair
    unix_datagram_from_pair send_through_own_socket netlink raw_socket read_network_of_host shared_memory semaphores
    message_queue shm_folder temporary_folder mount umount new_mount_api open_tree pivot_root chroot unshare
    clone_into_namespace setns hard_link_to_secret rename_out_of_scratch exchange_with_file_outside
    list_scratch_of_others scratch_execve disk_bomb disk_bomb_files inode_bomb fork fork_bomb thread_bomb
    thread_bomb_without_stacks kill_all read_through_own_root endless_and_deaf
"""
# And of each other thing that a wall stands before, some ways around it.
BY_AN_ORDINARY_ACCOUNT = f"""
    {WITHOUT_NAMESPACES}
    read_planted_file read_worker_token read_records read_other_payload read_other_result link_to_secret
    path_descriptor_to_secret inherited_descriptors own_first_environment secrets_in_own_memory read_agent_environ
    read_zygote_maps read_memory_of_process process_vm_readv ptrace_attach pidfd_getfd read_through_root_of_agent
    write_file_outside truncate_by_opening lease_on_secret lease_on_readable_file reopen_payload_for_writing
    kill_agent kill_zygote kill_group queued_signal signal_by_owner_with_high_bits limits_of_others memfd_execve
    loader_execve subprocess_run descriptor_bomb descriptor_tables signal_bomb memory_bomb memory_bomb_shared
    result_file_bomb setuid keyctl userfaultfd io_uring become_dumpable outlive_parent edit_weights_pointer
    frame_done_many
"""

# Of the fabrics that are attacked.
LIMITS = {
    "EDIF_ISOLATION": "sealed",
    "EDIF_TIME_LIMIT_S": "2",
    "EDIF_MEMORY_LIMIT_BYTES": "512MiB",
    "EDIF_SCRATCH_LIMIT_BYTES": "16MiB",
    "EDIF_RESULT_LIMIT_BYTES": "4MiB",
    "EDIF_LOG_LIMIT_BYTES": "20000",
    "EDIF_MIN_FREE_BYTES": "0",
}

# After attacks of these kinds, no neighbour is asked whether it noticed anything.
HARMLESS = ("secret", "sent")

Seen = dict[str, dict[str, Any]]


@dataclass(frozen=True, repr=False)
class Outcome:
    """What each attack brought about, by name, and the fabric that was attacked, still running.

    Attributes:
        keys: of the user whose jobs the attacks were, and of another one.
        settled: the fabric's processes were the same ones before and after all attacks.
    """

    sealed: Seen
    bare: Seen
    fabric: Fabric
    keys: dict[str, str]
    settled: bool


@pytest.fixture(scope="session")
def outcome(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """All attacks, by the account that runs the tests."""
    folder = tmp_path_factory.mktemp("escape")
    with _attacked(folder, models, catalogue(), people=("ada", "mallory")) as seen:
        yield seen


@pytest.fixture(scope="session")
def ordinary(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """Some of each kind, by an ordinary account."""
    if os.geteuid() != 0:
        pytest.skip("The whole suite runs as an ordinary account.")
    folder = tmp_path_factory.mktemp("ordinary")
    with _attacked(folder, models, chosen(BY_AN_ORDINARY_ACCOUNT), host_or_skip(folder)) as seen:
        yield seen


@pytest.fixture(scope="session")
def poor(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """Those that namespaces could stop, by an ordinary account of a host that lets nobody make any."""
    folder = tmp_path_factory.mktemp("poor")
    host = host_or_skip(folder, namespaces=False)
    with _attacked(folder, models, chosen(WITHOUT_NAMESPACES), host, bare=False) as seen:
        yield seen


def chosen(names: str) -> list[Attack]:
    """The attacks of these names; every one in the long runs."""
    found = {attack.name: attack for attack in catalogue()}
    return list(found.values()) if SOAK else [found[name] for name in names.split()]


def host_or_skip(folder: Path, *, namespaces: bool = True) -> Host:
    host = Host(folder, namespaces)
    if (reason := host.why_not()) is not None:
        pytest.skip(reason)
    return host


@contextmanager
def _attacked(
    folder: Path,
    models: dict[str, Path],
    attacks: Sequence[Attack],
    host: Host | None = None,
    *,
    bare: bool = True,
    people: tuple[str, ...] = (),
) -> Iterator[Outcome]:
    """Start a fabric on ``host``, attack it as the first of the people, and without ``bare`` only it."""
    model = folder / "model"
    shutil.copytree(models[GPT2_ID], model)
    certificate = light_certificates(folder)  # where the account can read it
    environment = {"PLANTED_SECRET": PLANTED, **certificate}
    if host is not None:
        environment |= host.environment()
        host.hand_over()
    fabric = start_fabric(
        folder / "data", "--model", f"{GPT2_ID}={model}", host=host, **LIMITS, **environment
    )
    try:
        names = [attack.name for attack in attacks]
        up = folder / "up.json"
        plans = {
            "bare": write_plan(
                folder / "bare.json",
                [
                    attack.name
                    for attack in attacks
                    if host is None or attack.kind not in ("neighbour", "rows")
                ],
                model=model if host is None else None,
                sizes=BARE_SIZES,
            ),
            "client": write_plan(
                folder / "client.json",
                names,
                model=GPT2_ID,
                sizes=SEALED_SIZES,
                up=up,
                readable=model / "config.json",
                harmless=HARMLESS if host is None else (*HARMLESS, "done", "changed"),
            ),
        }
        with contextlib.ExitStack() as running:
            if bare:
                alone = clean_environment(**environment)
                without_wall = running.enter_context(process("bare", plans["bare"], alone, fabric.prefix))
            fabric.wait_metadata(GPT2_ID)
            keys = {name: admit(fabric, name) for name in people}
            key = keys[people[0]] if people else None
            remote = fabric.client_environment(folder / "hub", key) | certificate
            if host is not None:
                remote |= host.environment()
                host.hand_over()
            client = running.enter_context(process("client", plans["client"], remote, fabric.prefix))
            fabric.wait_running(GPT2_ID)
            before = pids(fabric)
            told = up.with_suffix(".part")
            told.write_text(json.dumps({"pids": before, "data": str(fabric.data), "planted": PLANTED}))
            told.rename(up)  # the client looks for it all the while
            sealed = results(client, plans["client"])
            yield Outcome(
                sealed,
                results(without_wall, plans["bare"]) if bare else {},
                fabric,
                keys,
                before == pids(fabric),
            )
    finally:
        fabric.stop()


def write_plan(file: Path, names: list[str], **plan: Any) -> Path:
    where = {"folder": file.with_suffix(""), "out": file.with_suffix(".out"), "attacks": ATTACKS}
    file.write_text(json.dumps({**plan, **where, "names": names}, default=str))
    return file


def admit(fabric: Fabric, name: str) -> str:
    fabric.edif("users", "add", name, "--email", f"{name}@uni.example")
    return str(fabric.edif("keys", "create", "--user", name)["key"])


def pids(fabric: Fabric) -> dict[str, int]:
    """The fabric's processes; the zygote is the agent's one child, the driver and the runners are its.

    The driver is forked first, and never again unless it dies; runners come and go.
    """
    agent = fabric.pid("agent")
    (zygote,) = psutil.Process(agent).children()
    deadline = time.monotonic() + PATIENCE_S
    while not (children := sorted(zygote.children(), key=psutil.Process.create_time)):
        assert time.monotonic() < deadline, "the zygote forks nobody"
        time.sleep(0.05)
    return {
        "agent": agent,
        "gateway": fabric.pid("gateway"),
        "zygote": zygote.pid,
        "driver": children[0].pid,
    }


@contextmanager
def process(
    script: str, plan: Path, environment: dict[str, str], prefix: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """One of this folder's scripts, at work on a plan, of the account that may write to the plan's folder."""
    work = plan.with_name(f"{plan.stem}-cwd")
    work.mkdir()
    with plan.with_suffix(".log").open("wb") as output:
        running = subprocess.Popen(
            [*prefix, sys.executable, HERE / f"{script}.py", plan],
            env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield running
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()


def results(running: subprocess.Popen[bytes], plan: Path) -> Seen:
    """What it wrote down when it is through."""
    assert running.wait(TIMEOUT_S) == 0, plan.with_suffix(".log").read_text()[-3000:]
    seen: Seen = json.loads(plan.with_suffix(".out").read_text())
    return seen
