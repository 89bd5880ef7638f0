"""Carried out by ``payloads.py``: ``python mint_payloads.py MODEL FOLDER`` writes a payload beside each program in the folder."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from nnsight import TransformersModel
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend


class _Write(Backend):
    """Writes the request instead of sending it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, tracer: Any = None) -> None:
        self._path.write_bytes(RequestModel.serialize(tracer, compress=False))


def _main(model_folder: str, folder: Path) -> None:
    sys.path.insert(0, str(folder))
    model = TransformersModel(model_folder, task="text-generation")
    for name in json.loads((folder / "names.json").read_text()):
        module = importlib.import_module(name)
        try:
            module.program(model, _Write(folder / f"{name}.payload"))
        except Exception as error:
            raise RuntimeError(f"{name}:\n{(folder / f'{name}.py').read_text()}") from error
    (folder / "env.json").write_text(json.dumps(model._remoteable_get_env()))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
