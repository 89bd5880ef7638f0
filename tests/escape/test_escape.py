"""Every attack, on a sealed fabric and without any wall: there it must bring nothing about, here it must."""

import os
from pathlib import Path

import httpx
import pytest

from edif.core import errors
from tests.escape.catalogue import Attack, catalogue
from tests.escape.conftest import Outcome
from tests.support.replay import HEADERS

# What each kind is after, as `client.py` and `bare.py` wrote it down.
EFFECTS = {
    "secret": "leaked",
    "sent": "received",
    "done": "done",
    "killed": "killed",
    "changed": "changed",
    "endless": "endless",
    "ended": "ended",
    "frames": "frames",
    "neighbour": "neighbour",
    "rows": "neighbour",
}
# None of these may be seen outside the wall, whatever the attack was after. `grown` are the fabric's logs.
HARM = ("leaked", "received", "done", "killed", "changed", "neighbour", "grown")

# Attacks that cannot be shown to succeed without the wall, and why.
CANNOT_SUCCEED: dict[str, str | None] = {
    "new_privileges": "The kernel takes no_new_privs back from nobody.",
    "send_through_own_socket": "A packet socket sends to its peer only; Linux does not look at the address.",
    "other_socket_families": None if Path("/proc/net/tipc").exists() else "This kernel has no TIPC.",
    "open_memory_device": None if Path("/dev/mem").exists() else "This host has no /dev/mem.",
    "pin_to_one_core": None if len(os.sched_getaffinity(0)) > 1 else "There is one processor only.",
}
_ROOTS = ("chown_file_outside", "setuid", "setgid", "mknod", "kernel_settings")
_MORE_OF_ROOT = ("physical_addresses", "bpf", "fanotify", "open_kernel_log", "open_by_handle")
_PARANOIA = Path("/proc/sys/kernel/perf_event_paranoid")


def cannot_succeed(attack: Attack, *, as_root: bool) -> str | None:
    if attack.name in (*_ROOTS, *_MORE_OF_ROOT) and not as_root:
        return "Only root can do this, wall or no wall."
    if attack.name == "perf_event_open" and not as_root and int(_PARANOIA.read_text()) > 1:
        return "Only root can do this on this host (kernel.perf_event_paranoid)."
    return CANNOT_SUCCEED.get(attack.name)


@pytest.mark.parametrize("attack", [pytest.param(attack, id=attack.name) for attack in catalogue()])
def test_brings_nothing_about_behind_the_wall(attack: Attack, outcome: Outcome) -> None:
    seen = outcome.sealed[attack.name]
    assert seen["sent"], f"it never left the client: {seen['text'][-500:]}"
    assert [effect for effect in HARM if seen[effect]] == [], f"{attack.doc} {seen['text'][-500:]}"
    if attack.kind == "endless":
        assert f"[{errors.TIME_LIMIT.code}]" in seen["text"]


@pytest.mark.parametrize("attack", [pytest.param(attack, id=attack.name) for attack in catalogue()])
def test_succeeds_without_the_wall(attack: Attack, outcome: Outcome) -> None:
    if (reason := cannot_succeed(attack, as_root=os.geteuid() == 0)) is not None:
        pytest.skip(reason)
    seen = outcome.bare[attack.name]
    by_evidence = bool(attack.evidence) and seen.get("leaked", False)
    assert seen.get(EFFECTS[attack.kind], False) or by_evidence, f"{attack.doc} {seen['text'][-500:]}"


def test_the_fabric_is_the_same_as_before(outcome: Outcome) -> None:
    assert outcome.settled
    assert outcome.sealed.keys() == {attack.name for attack in catalogue()}
    log = outcome.fabric.log("agent")
    assert "Traceback" not in log
    assert "agent.replica_failed" not in log


def _headers(key: str) -> dict[str, str]:
    return {**HEADERS, "ndif-api-key": key}


def test_jobs_of_others_do_not_exist(outcome: Outcome) -> None:
    fabric = outcome.fabric
    results = [path.name for path in (fabric.data / "blobs" / "result").rglob("*") if path.is_file()]
    jobs = [name.rpartition("-")[0] for name in results]
    with httpx.Client(base_url=fabric.url) as http:
        for job in jobs[:3]:
            status = f"/response/{job}"
            own, other = (
                http.get(status, headers=_headers(outcome.keys[name])) for name in ("ada", "mallory")
            )
            assert (own.status_code, other.status_code) == (200, 404)


def test_links_cannot_be_guessed(outcome: Outcome) -> None:
    results = [path.name for path in (outcome.fabric.data / "blobs" / "result").rglob("*") if path.is_file()]
    first, second = results[:2]
    with httpx.Client(base_url=outcome.fabric.url) as http:
        answer = http.get(
            f"/response/{first.rsplit('-', 1)[0]}", headers=_headers(outcome.keys["ada"])
        ).json()
        link = httpx.URL(answer["data"])
        assert http.get(link).status_code == 200
        bent = [
            link.copy_with(path=link.path.replace(first, second)),
            link.copy_merge_params({"expires": str(int(link.params["expires"]) + 1)}),
            link.copy_merge_params({"signature": "0" * 64}),
            link.copy_merge_params({"purpose": "put"}),
            link.copy_with(query=None),
            link.copy_with(path="/edif/v1/blobs/result/../../worker.token"),
        ]
        mallory = _headers(outcome.keys["mallory"])
        assert {http.get(each, headers=mallory).is_success for each in bent} == {False}
