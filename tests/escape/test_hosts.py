"""Other hosts than the one that the tests run on: an ordinary account, no user namespaces, an older Landlock.

What of that cannot be had here is emulated, and the test's name says so.
"""

from pathlib import Path

import pytest

from tests.escape.catalogue import Attack, catalogue
from tests.escape.conftest import (
    BY_AN_ORDINARY_ACCOUNT,
    PLANTED,
    SEALED_SIZES,
    WITHOUT_NAMESPACES,
    Outcome,
    chosen,
    host_or_skip,
    process,
    results,
    write_plan,
)
from tests.escape.test_escape import EFFECTS, HARM, cannot_succeed
from tests.support.fabric import Fabric, clean_environment
from tests.support.ordinary import Host

# These are after what a fabric has or says, or have torch at hand.
NEEDS_A_FABRIC = ("own_first_environment", "secrets_in_own_memory", "result_bomb", "print_flood")
NEEDS_A_FABRIC += ("memory_bomb_tensors",)
IN_A_CELL = [
    attack.name
    for attack in catalogue()
    if attack.kind not in ("neighbour", "rows", "frames", "endless") and attack.name not in NEEDS_A_FABRIC
]
# What Landlock came to look after in versions 2 to 6.
LATER_RIGHTS = """
    hard_link_to_secret rename_out_of_scratch exchange_with_file_outside truncate_file_outside truncate_by_opening
    truncate_by_opening_for_nothing write_file_outside tcp_connect udp_send dns_query listen set_file_flags
    terminal signal_by_terminal_ioctl unix_stream unix_datagram unix_datagram_from_pair abstract_socket
    abstract_datagram_from_pair send_through_own_socket kill_all kill_agent kill_group tgkill tkill queued_signal
    pidfd_signal signal_by_owner_of_descriptor signal_by_owner_with_high_bits
"""


def _ids(names: str) -> list[object]:
    return [pytest.param(attack, id=attack.name) for attack in chosen(names)]


@pytest.mark.parametrize("attack", _ids(BY_AN_ORDINARY_ACCOUNT))
def test_brings_nothing_about_on_the_fabric_of_an_ordinary_account(attack: Attack, ordinary: Outcome) -> None:
    seen = ordinary.sealed[attack.name]
    assert seen["sent"], f"it never left the client: {seen['text'][-500:]}"
    assert [effect for effect in HARM if seen[effect]] == [], f"{attack.doc} {seen['text'][-500:]}"


@pytest.mark.parametrize("attack", _ids(BY_AN_ORDINARY_ACCOUNT))
def test_succeeds_without_the_wall_by_an_ordinary_account(attack: Attack, ordinary: Outcome) -> None:
    if attack.kind in ("neighbour", "rows"):
        pytest.skip("Within the process, where the account does not matter.")
    if (reason := cannot_succeed(attack, as_root=False)) is not None:
        pytest.skip(reason)
    seen = ordinary.bare[attack.name]
    by_evidence = bool(attack.evidence) and seen.get("leaked", False)
    assert seen.get(EFFECTS[attack.kind], False) or by_evidence, f"{attack.doc} {seen['text'][-500:]}"


@pytest.mark.parametrize("attack", _ids(WITHOUT_NAMESPACES))
def test_brings_nothing_about_on_a_host_without_namespaces(attack: Attack, poor: Outcome) -> None:
    seen = poor.sealed[attack.name]
    assert seen["sent"], f"it never left the client: {seen['text'][-500:]}"
    assert [effect for effect in HARM if seen[effect]] == [], f"{attack.doc} {seen['text'][-500:]}"


@pytest.mark.parametrize(("host", "namespaces"), [("ordinary", "ok"), ("poor", "warning")])
def test_it_was_such_a_host_and_doctor_says_so(
    host: str, namespaces: str, request: pytest.FixtureRequest
) -> None:
    fabric: Fabric = request.getfixturevalue(host).fabric
    agent = Path(f"/proc/{fabric.pid('agent')}/status").read_text().splitlines()
    assert {"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"} <= set(agent)
    assert all(each.split()[1] != "0" for each in agent if each.startswith(("Uid:", "Gid:")))
    found = {each["what"]: each for each in fabric.edif("doctor")}
    assert found["wall: landlock"]["state"] == found["wall: seccomp"]["state"] == "ok"
    assert found["wall: namespaces"]["state"] == namespaces
    assert ("no folder to write to" in found["wall: namespaces"]["advice"]) == (namespaces == "warning")


@pytest.mark.parametrize("host", ["ordinary", "poor"])
def test_that_fabric_is_the_same_as_before(host: str, request: pytest.FixtureRequest) -> None:
    outcome: Outcome = request.getfixturevalue(host)
    assert outcome.settled
    log = outcome.fabric.log("agent")
    assert "Traceback" not in log
    assert "agent.replica_failed" not in log


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_nothing_is_brought_about_under_an_emulated_older_landlock(version: int, folder: Path) -> None:
    """And without namespaces. On the poorest host, everything is tried; on the others, what is Landlock's by now."""
    names = IN_A_CELL if version == 1 else [attack.name for attack in chosen(LATER_RIGHTS)]
    assert _harm(names, folder, host_or_skip(folder, namespaces=False), landlock=version) == {}


def test_nothing_is_brought_about_in_an_emulated_container_that_forbids_namespaces(folder: Path) -> None:
    """By the account of the tests: where that is root, it is not counted as others are."""
    assert _harm([attack.name for attack in chosen(WITHOUT_NAMESPACES)], folder, None, namespaces=False) == {}


def test_nothing_is_brought_about_where_the_requests_of_a_cards_driver_are_let_through(folder: Path) -> None:
    """The walls of a job on a GPU. Where there is none, its device files are not there either."""
    assert _harm(IN_A_CELL, folder, None, cards=True) == {}


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with a short name: the path of a socket has some hundred bytes."""
    return tmp_path_factory.mktemp("cells")


def _harm(
    names: list[str],
    folder: Path,
    host: Host | None,
    *,
    landlock: int | None = None,
    namespaces: bool = True,
    cards: bool = False,
) -> dict[str, list[str]]:
    """What attacks in bare cells brought about, by those that brought anything."""
    names = [name for name in names if name in IN_A_CELL]
    older = {"landlock": landlock, "namespaces": namespaces, "cards": cards}
    plan = write_plan(folder / "cells.json", names, sizes=SEALED_SIZES, **older)
    environment = clean_environment(PLANTED_SECRET=PLANTED)
    if host is not None:
        environment |= host.environment()
        host.hand_over()
    with process("cells", plan, environment, host.prefix() if host else ()) as running:
        seen = results(running, plan)
    assert seen.keys() == set(names)
    harm = {name: [effect for effect in HARM if seen[name].get(effect)] for name in names}
    died = {name: [seen[name]["text"]] for name in names if "killed" not in seen[name]}
    return {name: what for name, what in harm.items() if what} | died
