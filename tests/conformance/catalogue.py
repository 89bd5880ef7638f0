"""Which programs there are: the public functions of the files in ``programs/``.

Read from their source, for to import them would bring torch and nnsight into the test process. A module may
say ``READS``, its programs that change nothing and so have no baseline, and ``ONLY``, the one family that they
are for.
"""

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).parent / "programs"
HELPERS = frozenset({"parts", "probing", "script"})
FAMILIES = ("gpt2", "llama")


@dataclass(frozen=True)
class Program:
    """One program on one model family.

    Attributes:
        reads: whether it only reads, so that there is nothing for it to have changed.
    """

    module: str
    name: str
    family: str
    reads: bool

    @property
    def id(self) -> str:
        return f"{self.module}.{self.name}[{self.family}]"


def catalogue() -> list[Program]:
    """Every program, those of one family after another."""
    found = [program for path in sorted(PROGRAMS.glob("*.py")) for program in _programs_of(path)]
    return sorted(found, key=lambda program: program.family)


def _programs_of(path: Path) -> list[Program]:
    if path.stem in HELPERS:
        return []
    body = ast.parse(path.read_text()).body
    says = {name: value for statement in body for name, value in _constant(statement)}
    names = [
        statement.name
        for statement in body
        if isinstance(statement, ast.FunctionDef) and not statement.name.startswith("_")
    ]
    unknown = set(says.get("READS", ())) - set(names)
    assert not unknown, f"{path.name} names programs that it does not have: {unknown}"
    families = (says["ONLY"],) if "ONLY" in says else FAMILIES
    return [
        Program(path.stem, name, family, name in says.get("READS", ()))
        for name in names
        for family in families
    ]


def _constant(statement: ast.stmt) -> list[tuple[str, Any]]:
    if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
        return []
    name = statement.targets[0].id
    return [(name, ast.literal_eval(statement.value))] if name in ("READS", "ONLY") else []
