"""Runs conformance programs and writes down what each of them returned: ``python client.py PLAN...``.

Each plan is carried out in a process of its own, forked after the slow imports and before anything was traced,
in the folder of a user who has nothing there but scripts. A plan (JSON) has

``mode``      ``remote`` or ``local``
``folder``    where the user works, and Python finds the programs
``copies``    files to put there first, by name: where they come from
``wait_for``  a file that must exist before the plan is begun
``families``  for each model family the source of its models, a repository id or a folder
``programs``  the programs as (module, function, family)
``out``       the file for what they returned

A program's parameters are filled by name: ``remote`` with the mode, ``model`` with the family's model, the
others with the variants below.
"""

import gc
import importlib
import inspect
import json
import os
import shutil
import sys
import time
import traceback
from functools import cache
from pathlib import Path
from typing import Any

import torch

LOCAL = {"dtype": torch.float32, "dispatch": True}


def main(plan_files: list[str]) -> int:
    torch.set_num_threads(1)
    gc.disable()  # looking through all that is imported, again and again, takes a quarter of the time
    for name in ("nnsight.modeling.transformers", "transformers.pipelines", "peft"):
        importlib.import_module(name)
    gc.freeze()
    gc.enable()
    for plan_file in plan_files:
        plan = json.loads(Path(plan_file).read_text())
        while plan["wait_for"] and not Path(plan["wait_for"]).exists():
            time.sleep(0.05)
        child = os.fork()
        if child == 0:
            carry_out_and_leave(plan)
        _, status = os.waitpid(child, 0)
        if status != 0:
            return 1
    return 0


def carry_out_and_leave(plan: dict[str, Any]) -> None:
    code = 1
    try:
        carry_out(plan)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def carry_out(plan: dict[str, Any]) -> None:
    os.chdir(plan["folder"])
    sys.path[0] = plan["folder"]
    for name, source in plan["copies"].items():
        shutil.copy(source, name)
    results = {}
    for module, name, family in plan["programs"]:
        began = time.monotonic()
        program = getattr(importlib.import_module(module), name)
        outcome = run(program, plan["families"][family], remote=plan["mode"] == "remote")
        results[f"{module}.{name}[{family}]"] = {**outcome, "seconds": time.monotonic() - began}
    torch.save(results, plan["out"])


def run(program: Any, sources: dict[str, str], *, remote: bool) -> dict[str, Any]:
    try:
        arguments = {
            name: remote if name == "remote" else variant(name, sources["model"], sources.get("lora"), remote)
            for name in inspect.signature(program).parameters
        }
        return {"returned": plain(program(**arguments))}
    except Exception:
        return {"error": traceback.format_exc()}


@cache
def variant(name: str, source: str, lora: str | None, remote: bool) -> Any:
    """The family's model, built as one program wants it."""
    from nnsight import LanguageModel, TransformersModel

    place = {} if remote else LOCAL
    task = {"task": "text-generation"}
    match name:
        case "model":
            return TransformersModel(source, **task, **place)
        case "eager":
            return TransformersModel(source, **task, attn_implementation="eager", **place)
        case "lora":
            return TransformersModel(source, **task, peft=lora, **place)
        case "language":
            return LanguageModel(source, **place)
        case "untold":
            # The task of a repository is inferred from the Hub; a folder's is not.
            return TransformersModel(source, **({} if remote else task), **place)
    raise ValueError(f"no program may ask for {name!r}")


def plain(value: Any) -> Any:
    """The value, if it has nothing but tensors, containers, numbers and texts in it."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a program returned a {type(value).__name__}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
