"""Runs every attack without a wall and writes down what each brought about: ``bare.py PLAN``.

For each attack a supervisor is forked that plants the canaries, forks the attacker, and looks afterwards. What
could harm the machine is closed in namespaces of its own, supervisor and canaries included, and goes only as
far as the plan's sizes.
"""

import atexit
import contextlib
import importlib
import json
import os
import pickle
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from canaries import Canaries
from edif.walls import kernel
from neighbour import run_crowd, run_neighbour

ENDLESS_S = 0.5
TIMEOUT_S = 20.0
_NAMESPACES = (
    kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | 0x20000000
)


def main(plan_file: str) -> None:
    plan = json.loads(Path(plan_file).read_text())
    sys.path.insert(0, plan["attacks"])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    model, quiet = load(plan["model"]) if plan["model"] else (None, None)
    seen = {}
    for name in plan["names"]:
        folder = Path(plan["folder"]) / name
        folder.mkdir(parents=True)
        seen[name] = in_a_child(folder, supervise(name, folder, plan, model, quiet))
    Path(plan["out"]).write_text(json.dumps(seen))


def load(folder: str) -> tuple[Any, Any]:
    """The model, and what a neighbour sees of it before any attack. Attacks on neither need none, and run sooner."""
    import torch
    from nnsight import TransformersModel

    torch.set_num_threads(1)
    model = TransformersModel(folder, task="text-generation", dispatch=True)
    return model, (run_neighbour(model, remote=False), run_crowd(model))


def in_a_child(folder: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    with folder.with_suffix(".json").open("w+") as answer:
        child = os.fork()
        if child == 0:
            end_with(work, answer)
        os.waitpid(child, 0)
        return read(answer) or {"text": "its supervisor died"}


def read(answer: IO[str]) -> dict[str, Any]:
    answer.seek(0)
    found: dict[str, Any] = json.loads(answer.read() or "{}")
    return found


def end_with(work: Callable[[], Any], answer: IO[str]) -> None:
    """The file is open already: the work may have taken the process where its path leads nowhere."""
    code = 70
    try:
        try:
            text = json.dumps(work())
            code = 0
        except BaseException:
            text = json.dumps({"text": traceback.format_exc()})
        answer.write(text)
        answer.flush()
    finally:
        os._exit(code)


def supervise(name: str, folder: Path, plan: dict[str, Any], model: Any, quiet: Any) -> Any:
    module = importlib.import_module(name)

    def work() -> dict[str, Any]:
        if getattr(module, "BARE", "") == "namespace":
            return in_namespaces(folder, lambda: watch(module, folder, plan, model, quiet))
        return watch(module, folder, plan, model, quiet)

    return work


def in_namespaces(folder: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(_NAMESPACES)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")

    def first_process() -> dict[str, Any]:
        kernel.mount("", "/", kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("proc", "/proc", 0)
        return work()

    return in_a_child(folder.with_name(f"{folder.name}-inside"), first_process)


def watch(module: Any, folder: Path, plan: dict[str, Any], model: Any, quiet: Any) -> dict[str, Any]:
    outside = folder / "outside"
    outside.mkdir()
    canaries = Canaries(outside, module.__name__, plan["sizes"], None)
    mode = getattr(module, "BARE", "")
    scratch = folder / "scratches" / "own"
    scratch.mkdir(parents=True)
    (folder / "scratches" / "other").mkdir()
    if mode == "namespace":
        kernel.mount("tmpfs", str(scratch), 0, "size=64m")
    os.environ["SECRET"] = Path(canaries.told["file"]).read_text()
    os.chdir(scratch)
    inherited = os.open(canaries.told["file"], os.O_RDONLY)
    parent, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    printed = folder / "printed"
    with (folder / "answer.json").open("w+") as answer:
        child = os.fork()
        if child == 0:
            parent.close()
            if mode == "group":
                os.setpgid(0, canaries.told["process"])
            if mode == "namespace":
                kernel.unshare(kernel.CLONE_NEWNS)  # what becomes of its mounts is not ours to see
            end_with(lambda: attack(module, canaries, model, quiet, printed), answer)
        theirs.close()
        heard, ended = listen(parent, child, ENDLESS_S if module.KIND == "endless" else TIMEOUT_S)
        found = (read(answer) if ended == 0 else {}) or {"text": f"exited with code {ended}"}
    text = found["text"]
    if printed.exists() and printed.stat().st_size > 2**20:
        text += "printed it all"
    os.close(inherited)
    return {
        **canaries.witness(text, getattr(module, "EVIDENCE", ""), 5.0 if module.KIND == "killed" else 0.0),
        "frames": canaries.told["mark"].encode() in heard,
        "endless": ended is None,
        "ended": ended is not None and ended != 0,
        "neighbour": found.get("neighbour", False),
        "text": text[-2_000:],
    }


def attack(module: Any, canaries: Canaries, model: Any, quiet: Any, printed: Path) -> dict[str, Any]:
    with printed.open("w") as output, contextlib.redirect_stdout(output):
        try:
            if module.KIND == "neighbour":
                result = module.attack(canaries.told, model._module)
            else:
                told = canaries.told
                if hasattr(module, "pack"):
                    told = pickle.loads(pickle.dumps(module.pack(told)))
                if module.KIND == "rows":
                    return attack_rows(module, told, model, quiet)
                result = module.attack(told)
        except Exception:
            return {"text": traceback.format_exc()}
    if getattr(module, "BARE", "") == "exit":
        atexit._run_exitfuncs()
    text = result if isinstance(result, str) else repr(type(result))
    if isinstance(result, bytes) and len(result) >= canaries.told["result_bytes"]:
        text = canaries.done
    return {"text": text, "neighbour": module.KIND == "neighbour" and not_as_before(model, quiet)}


def attack_rows(module: Any, told: dict[str, Any], model: Any, quiet: Any) -> dict[str, Any]:
    """In one process with somebody else's row."""
    try:
        after = run_crowd(model, lambda rows: module.attack(told, rows))
    except Exception:
        return {"text": traceback.format_exc(), "neighbour": True}
    return {"text": "", "neighbour": bool(after != quiet[1])}


def not_as_before(model: Any, quiet: Any) -> bool:
    try:
        return bool(run_neighbour(model, remote=False) != quiet[0])
    except BaseException:  # it noticed in the hardest way
        return True


def listen(parent: socket.socket, child: int, timeout_s: float) -> tuple[bytes, int | None]:
    """What the attacker says on its socket until it ends, and how it ended; None if it did not."""
    heard = b""
    with open(os.pidfd_open(child), closefd=True, mode="rb") as gone:  # noqa: PTH123 - to have it closed
        while True:
            ready, _, _ = select.select([parent, gone], [], [], timeout_s)
            if parent in ready and (data := parent.recv(2**18)):
                heard += data
            elif gone in ready:
                _, status = os.waitpid(child, 0)
                return heard, os.waitstatus_to_exitcode(status)
            elif not ready:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return heard, None


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.flush()
    os._exit(0)
