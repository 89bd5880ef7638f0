"""The requests that the stock client would send for drawn programs, without importing torch here."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.programs.program import Program

_MINT = Path(__file__).with_name("mint_payloads.py")


@dataclass(frozen=True, slots=True)
class Payload:
    """One request as it travels, not compressed.

    Attributes:
        body: the serialised block.
        env: how the client's model says that it is to be run.
    """

    program: Program
    body: bytes
    env: dict[str, Any]


def payloads(programs: Sequence[Program], model: Path, folder: Path) -> list[Payload]:
    """One request for each program, in their order.

    Args:
        programs: all of one family, no two of the same name.
        model: the folder of that family's model.
        folder: empty or not there yet; the programs are written below it.

    Raises:
        subprocess.CalledProcessError: a program cannot be turned into a request.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for program in programs:
        (folder / f"{_file_name(program)}.py").write_text(program.source)
    names = [_file_name(program) for program in programs]
    (folder / "names.json").write_text(json.dumps(names))
    subprocess.run([sys.executable, str(_MINT), str(model), str(folder)], check=True, cwd=folder)
    env = json.loads((folder / "env.json").read_text())
    return [
        Payload(program, (folder / f"{name}.payload").read_bytes(), env)
        for program, name in zip(programs, names, strict=True)
    ]


def _file_name(program: Program) -> str:
    return program.name.replace("-", "_")
