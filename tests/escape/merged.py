"""Makes the requests of attacks that are to run in company, and looks what each brought about: ``merged.py PLAN``.

Canaries are planted and looked at by this process. The requests are sent by the one that started it, each at the same time as
an innocent one: so that they are under way together, neither may wait for a client. One line each way, on stdin and stdout:
a request there, what came of it back.
"""

import contextlib
import importlib
import io
import json
import os
import sys
import traceback
from pathlib import Path
from typing import IO, Any

import torch

from canaries import Canaries, wait_for
from client import as_text, fabric_as_a_target, packed, size_of_logs
from neighbour import PROMPT, surroundings

LOG_GROWTH = 2**20


def main(plan_file: str) -> None:
    asking = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is none of the other's business
    plan = json.loads(Path(plan_file).read_text())
    torch.set_num_threads(1)
    import nnsight
    from nnsight import TransformersModel

    sys.path.insert(0, plan["attacks"])
    wait_for(Path(plan["up"]))
    plan |= json.loads(Path(plan["up"]).read_text())
    model = TransformersModel(plan["model"], task="text-generation")
    work = Path(plan["folder"])
    work.mkdir()
    ask = Asking(asking, work)
    for path in (*Path(plan["attacks"]).glob("*.py"), Path("neighbour.py")):
        nnsight.register(path.stem)
    innocent = work / "innocent"
    innocent_job(model, writing(innocent))
    quiet = bits(ask("", innocent)["innocent"])
    place = fabric_as_a_target(plan)
    seen = {}
    for name in plan["names"]:
        seen[name] = one_attack(name, work / name, plan, place, model, ask, quiet)
    Path(plan["out"]).write_text(json.dumps(seen))


class Asking:
    """Has a request sent, in company, and hears what came of it."""

    def __init__(self, asking: IO[str], folder: Path) -> None:
        self._asking = asking
        self._folder = folder

    def __call__(self, name: str, payload: Path) -> dict[str, Any]:
        self._asking.write(json.dumps({"name": name, "payload": str(payload)}) + "\n")
        self._asking.flush()
        answer: dict[str, Any] = json.loads(sys.stdin.readline())
        return answer


def writing(path: Path) -> Any:
    from nnsight.schema.request import RequestModel
    from nnsight.tracing.backend import Backend

    class Writing(Backend):
        """Writes the request instead of sending it."""

        def __call__(self, tracer: Any = None) -> None:
            path.write_bytes(RequestModel.serialize(tracer, compress=False))

    return Writing()


def innocent_job(model: Any, backend: Any) -> None:
    """Of as many tokens as the attacks' traces, and at their locations."""
    with model.trace(PROMPT, backend=backend):
        first = model.transformer.h[0].output.save()
        second = (model.transformer.h[1].output * 1.5).save()
        logits = model.lm_head.output.save()
        rest = surroundings().save()


def bits(result: str) -> dict[str, Any]:
    values = torch.load(result, map_location="cpu", weights_only=False)
    return {
        name: value.detach().numpy().tobytes() if isinstance(value, torch.Tensor) else value
        for name, value in values.items()
    }


def one_attack(
    name: str, folder: Path, plan: dict[str, Any], place: dict[str, Any], model: Any, ask: Asking, quiet: Any
) -> dict[str, Any]:
    module = importlib.import_module(name)
    folder.mkdir()
    outside = folder / "outside"
    outside.mkdir()
    canaries = Canaries(outside, name, plan["sizes"], place)
    logs = size_of_logs(plan)
    attack_job(module, packed(module, canaries.told), model, writing(folder / "payload"))
    answer = ask(name, folder / "payload")
    text = answer["text"]
    if answer["result"]:
        text += as_text(result_of(answer["result"]), canaries)
    return {
        **canaries.witness(text[-40_000:], getattr(module, "EVIDENCE", "")),
        "neighbour": not answer["innocent"] or bits(answer["innocent"]) != quiet,
        "grown": size_of_logs(plan) - logs > LOG_GROWTH,
        "text": text[-2_000:],
    }


def attack_job(module: Any, canary: dict[str, Any], model: Any, backend: Any) -> None:
    """The attack's code runs in the midst of the pass: behind the first layer, and before the others."""
    attack = module.attack
    if module.KIND == "neighbour":
        with model.trace(PROMPT, backend=backend):
            model.transformer.h[0].output
            result = attack(canary, model._module).save()
            model.lm_head.output.save()
    elif module.KIND == "rows":
        with model.trace(PROMPT, backend=backend):
            model.transformer.h[0].output = attack(canary, model.transformer.h[0].output)
            result = model.lm_head.output.save()
    else:
        with model.trace(PROMPT, backend=backend):
            model.transformer.h[0].output
            result = attack(canary).save()
            model.lm_head.output.save()


def result_of(path: str) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return torch.load(path, map_location="cpu", weights_only=False)["result"]
        except Exception:
            return traceback.format_exc()


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.flush()
    os._exit(0)
