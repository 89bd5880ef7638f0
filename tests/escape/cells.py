"""Runs attacks in cells without a model and writes down what each brought about: ``cells.py PLAN``.

A cell costs a tenth of a job. What a fabric adds, a model and an agent that is talked to, these attacks do not touch.
The plan can have the cell believe that it meets an older host: what it then does not ask the kernel for, the
kernel does not give, so the walls are truly those of that host. And it can have a cell that leaves open what NVIDIA's libraries need.
"""

import atexit
import errno
import importlib
import json
import os
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from bare import TIMEOUT_S, end_with, in_a_child, listen, read
from canaries import Canaries
from edif.walls import kernel, landlock, nvidia
from edif.walls.cell import STATM, Cell, close_in, limit_memory
from edif.walls.seccomp import Filter

MIB = 2**20
MEMORY_BYTES = 512 * MIB


def main(plan_file: str) -> None:
    plan = json.loads(Path(plan_file).read_text())
    sys.path.insert(0, plan["attacks"])
    calls = Filter(cards=plan["cards"])
    seen = {}
    for name in plan["names"]:
        folder = Path(plan["folder"]) / name
        folder.mkdir(parents=True)
        seen[name] = in_a_child(folder, lambda name=name, folder=folder: watch(name, folder, plan, calls))
    Path(plan["out"]).write_text(json.dumps(seen))


def watch(name: str, folder: Path, plan: dict[str, Any], calls: Filter) -> dict[str, Any]:
    began = time.monotonic()
    module = importlib.import_module(name)
    outside = folder / "outside"
    outside.mkdir()
    canaries = Canaries(outside, name, plan["sizes"], None)
    scratch = folder / "scratches" / "own"
    scratch.mkdir(parents=True)
    (folder / "scratches" / "other").mkdir()
    os.environ["SECRET"] = Path(canaries.told["file"]).read_text()
    inherited = os.open(canaries.told["file"], os.O_RDONLY)
    (folder / "payload").write_text("for the job")
    parent, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with (
        (folder / "answer.json").open("w+") as answer,
        (folder / "payload").open("rb") as payload,
        (folder / "result").open("wb") as result,
    ):
        child = os.fork()
        if child == 0:
            parent.close()
            kept = tuple(each.fileno() for each in (answer, theirs, payload, result))
            play_older_host(plan)
            end_with(lambda: attack(module, canaries, scratch, calls, kept, cards=plan["cards"]), answer)
        theirs.close()
        _, ended = listen(parent, child, TIMEOUT_S)
        found = (read(answer) if ended == 0 else {}) or {"text": f"exited with code {ended}"}
    os.close(inherited)
    text = found["text"]
    return {
        **canaries.witness(text, getattr(module, "EVIDENCE", ""), 0.1 if module.KIND == "killed" else 0.0),
        "seconds": time.monotonic() - began,
        "text": text[-2_000:],
    }


def play_older_host(plan: dict[str, Any]) -> None:
    if plan["landlock"] is not None:
        landlock.abi = lambda: plan["landlock"]
    if not plan["namespaces"]:
        kernel.unshare = refuse


def refuse(_flags: int) -> None:
    raise OSError(errno.EPERM, "as where a container forbids them")


def attack(
    module: Any, canaries: Canaries, scratch: Path, calls: Filter, kept: tuple[int, ...], *, cards: bool
) -> dict[str, Any]:
    told = canaries.told
    statm = os.open(STATM, os.O_RDONLY)
    cell = Cell(
        (Path(told["readable"]), *(nvidia.FOLDERS if cards else ())),
        scratch,
        *(16 * MIB, None if cards else MEMORY_BYTES, 8 * MIB, 60),
        devices=nvidia.device_files() if cards else (),
    )
    close_in(cell, calls, (*kept, statm))
    if cards:
        limit_memory(MEMORY_BYTES, statm)
    try:
        result = module.attack(module.pack(told) if hasattr(module, "pack") else told)
    except Exception:
        return {"text": traceback.format_exc()}
    atexit._run_exitfuncs()
    text = result if isinstance(result, str) else repr(type(result))
    if isinstance(result, bytes) and len(result) >= told["result_bytes"]:
        text = canaries.done
    return {"text": text}


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.flush()
    os._exit(0)
