"""Sends every attack to a fabric, as its own job, and writes down what each brought about: ``client.py PLAN``.

The stock client, in one process. Canaries are planted and looked at by this process, which is as much outside
the wall as the fabric's own.
"""

import contextlib
import importlib
import io
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from canaries import SECRETS, Canaries, is_alive, wait_for
from neighbour import PROMPT, run_neighbour

PRINTED_IT_ALL = 2**20
RECEIVED = "RECEIVED"  # as the stock client prints of a job that the fabric has taken
LOG_GROWTH = 2**20


def main(plan_file: str) -> None:
    plan = json.loads(Path(plan_file).read_text())
    torch.set_num_threads(1)
    from nnsight import TransformersModel

    sys.path.insert(0, plan["attacks"])
    wait_for(Path(plan["up"]))
    plan |= json.loads(Path(plan["up"]).read_text())
    model = TransformersModel(plan["model"], task="text-generation")
    quiet = run_neighbour(model, remote=True)
    place = fabric_as_a_target(plan)
    seen = {}
    for name in plan["names"]:
        folder = Path(plan["folder"]) / name
        folder.mkdir(parents=True)
        seen[name] = one_attack(name, folder, plan, place, model, quiet)
        if "killed" in seen[name] and not is_alive(place["zygote"]):
            break  # nothing that comes now would say anything
    Path(plan["out"]).write_text(json.dumps(seen))


def fabric_as_a_target(plan: dict[str, Any]) -> dict[str, Any]:
    """The fabric's processes and secrets, the result of the neighbour's first job, and a payload.

    That job's own payload went when it had ended: what lies in its place is planted.
    """
    data = Path(plan["data"])
    result = first_file(data / "blobs" / "result")
    payload = data / "blobs" / "payload" / result.name.rpartition("-")[0]
    payload.write_bytes(os.urandom(64))
    secrets = [(data / name).read_text() for name in SECRETS]
    secrets += [blob.read_bytes()[16:48].hex() for blob in (payload, result)]
    return {
        **plan["pids"],
        "data": str(data),
        "payload": str(payload),
        "result": str(result),
        "log": str(data / "run" / "logs" / "agent.log"),
        "readable": plan["readable"],
        "secrets": [*secrets, plan["planted"]],
    }


def first_file(folder: Path) -> Path:
    return next(path for path in folder.rglob("*") if path.is_file())


def one_attack(
    name: str, folder: Path, plan: dict[str, Any], place: dict[str, Any], model: Any, quiet: Any
) -> dict[str, Any]:
    began = time.monotonic()
    module = importlib.import_module(name)
    canaries = Canaries(folder, name, plan["sizes"], place)
    logs = size_of_logs(plan)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        text = as_text(send(module, packed(module, canaries.told), model), canaries)
    if len(printed.getvalue()) > PRINTED_IT_ALL:
        text += "printed it all"
    again = quiet
    if module.KIND not in plan["harmless"]:
        again = ask_neighbour(model)
    evidence = getattr(module, "EVIDENCE", "")
    return {
        **canaries.witness(text + printed.getvalue()[-20_000:], evidence),
        "neighbour": again != quiet,
        "sent": RECEIVED in printed.getvalue(),
        "seconds": time.monotonic() - began,
        "grown": size_of_logs(plan) - logs > LOG_GROWTH,
        "text": text[-2_000:],
    }


def ask_neighbour(model: Any) -> Any:
    try:
        return run_neighbour(model, remote=True)
    except Exception:
        return traceback.format_exc()


def packed(module: Any, told: dict[str, Any]) -> dict[str, Any]:
    """What travels with the attack; some have it do something on arrival."""
    found: dict[str, Any] = module.pack(told) if hasattr(module, "pack") else told
    return found


def send(module: Any, canary: dict[str, Any], model: Any) -> Any:
    attack = module.attack
    try:
        if module.KIND == "neighbour":
            with model.trace(PROMPT, remote=True):
                result = attack(canary, model._module).save()
        elif module.KIND == "rows":
            with model.trace(PROMPT, remote=True):
                model.transformer.h[0].output = attack(canary, model.transformer.h[0].output)
                result = model.lm_head.output.save()
        else:
            with model.trace(PROMPT, remote=True):
                result = attack(canary).save()
    except Exception:
        return traceback.format_exc()
    return result


def as_text(result: Any, canaries: Canaries) -> str:
    if isinstance(result, bytes):
        return canaries.done if len(result) >= canaries.told["result_bytes"] else ""
    return result if isinstance(result, str) else repr(result)


def size_of_logs(plan: dict[str, Any]) -> int:
    return sum(path.stat().st_size for path in (Path(plan["data"]) / "run" / "logs").iterdir())


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.flush()
    os._exit(0)
